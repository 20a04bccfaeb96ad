"""A simulated box below a scheduler: models that load and answer for given times, with a clock of its own."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from llamarig.remote.front.scheduler import Action, Admit, Bounds, Refuse, Scheduler, Served, Start, Stop

STOP_S = 1.0


@dataclass(frozen=True)
class Request:
    at: float
    model: str
    takes_s: float = 1
    gives_up_after_s: float | None = None
    """When its client hangs up, from its arrival; None for never."""


@dataclass
class Outcome:
    """Of one request: when it was admitted or refused, or its client hung up before."""

    admitted: float | None = None
    refused: Refuse | None = None
    gave_up: float | None = None
    ended: float | None = None


@dataclass
class Simulation:
    """Run with `run`; ``outcomes`` are in the order of the requests, ``order`` has the models as they were admitted."""

    models: Iterable[Served]
    bounds: Bounds = field(default_factory=Bounds)
    load_s: Mapping[str, float] = field(default_factory=dict)
    broken: frozenset[str] = frozenset()
    loaded: tuple[str, ...] = ()
    outcomes: list[Outcome] = field(default_factory=list)
    order: list[str] = field(default_factory=list)
    events: list[tuple[float, str, str]] = field(default_factory=list)
    """(time, "start" | "ready" | "failed" | "stop", model)"""

    def __post_init__(self) -> None:
        self.served = {model.name: model for model in self.models}
        self.scheduler = Scheduler(self.served.values(), self.bounds)
        self._heap: list[tuple[float, int, str, str, int]] = []
        self._number = itertools.count()
        self._running: dict[str, set[int]] = {name: set() for name in self.served}
        self._up: dict[str, float] = {}
        """Model that is up, or starting -> since when."""
        self._now = 0.0

    def run(self, requests: Iterable[Request], until: float = 1e6) -> Simulation:
        self._requests = list(requests)
        self.outcomes = [Outcome() for _ in self._requests]
        for name in self.loaded:
            self._up[name] = 0.0
            self._act(self.scheduler.observe(name, True, 0.0), 0.0)
        for ticket, request in enumerate(self._requests):
            self._later(request.at, "arrive", request.model, ticket)
        for _ in range(100_000):
            due = self._heap[0][0] if self._heap else None
            tick = self.scheduler.next_change(self._now)
            if due is None and (tick is None or tick > until):
                return self
            if due is None or (tick is not None and tick < due):
                assert tick is not None
                self._now = tick
                self._act(self.scheduler.tick(tick), tick)
            else:
                now, _, kind, model, ticket = heapq.heappop(self._heap)
                self._now = now
                self._happen(kind, model, ticket, now)
        raise AssertionError("the simulation does not end")

    def _later(self, at: float, kind: str, model: str, ticket: int = -1) -> None:
        heapq.heappush(self._heap, (at, next(self._number), kind, model, ticket))

    def _happen(self, kind: str, model: str, ticket: int, now: float) -> None:
        if kind == "arrive":
            gives_up = self._requests[ticket].gives_up_after_s
            if gives_up is not None:
                self._later(now + gives_up, "give up", model, ticket)
            self._act(self.scheduler.arrive(ticket, model, now), now)
        elif kind in ("answered", "give up"):
            outcome = self.outcomes[ticket]
            if outcome.ended is None and outcome.refused is None and outcome.gave_up is None:
                if kind == "give up":
                    outcome.gave_up = now
                else:
                    outcome.ended = now
                self._running[model].discard(ticket)
                self._act(self.scheduler.leave(ticket, now), now)
        elif kind == "ready":
            self._up[model] = now
            self.events.append((now, "ready", model))
            self._act(self.scheduler.started(model, now), now)
        elif kind == "failed":
            del self._up[model]
            self.events.append((now, "failed", model))
            self._act(self.scheduler.failed(model, f"{model} is broken", now), now)
        elif kind == "stopped":
            self._act(self.scheduler.stopped(model, now), now)

    def _act(self, actions: Iterable[Action], now: float) -> None:
        for action in actions:
            if isinstance(action, Admit):
                self._admit(action.ticket, now)
            elif isinstance(action, Refuse):
                assert self.outcomes[action.ticket] == Outcome(), "one answer for each request"
                self.outcomes[action.ticket].refused = action
            elif isinstance(action, Start):
                self._start(action.model, now)
            elif isinstance(action, Stop):
                assert not self._running[action.model], f"{action.model} is stopped while it answers"
                del self._up[action.model]
                self.events.append((now, "stop", action.model))
                self._later(now + STOP_S, "stopped", action.model)

    def _admit(self, ticket: int, now: float) -> None:
        request, outcome = self._requests[ticket], self.outcomes[ticket]
        assert outcome == Outcome(), "one answer for each request"
        assert request.model in self._up, f"a request goes to {request.model}, which is not up"
        outcome.admitted = now
        self.order.append(request.model)
        running = self._running[request.model]
        running.add(ticket)
        assert len(running) <= self.served[request.model].concurrency
        self._later(now + request.takes_s, "answered", request.model, ticket)

    def _start(self, name: str, now: float) -> None:
        assert name not in self._up, f"{name} is started twice"
        for other in self.served[name].excludes:
            assert not self._running[other], f"{other} is stopped for {name} while it answers"
            if other in self._up:
                resided = now - self._up.pop(other)
                assert resided >= self.bounds.least_residency_s, f"{other} stayed for {resided} s"
        self._up[name] = now
        self.events.append((now, "start", name))
        done = "failed" if name in self.broken else "ready"
        self._later(now + self.load_s.get(name, 10.0), done, name)

    @property
    def starts(self) -> list[str]:
        return [model for _, kind, model in self.events if kind == "start"]
