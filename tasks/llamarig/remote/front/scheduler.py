"""Which request goes to its model now, and which model is started or stopped: the queue of the front.

Sans-I/O: events come in with the time at which they happened, and actions go out. The caller performs the actions and
reports what became of them. All times are seconds of one monotonic clock.

Requests are collated by model: while A is loaded, A's requests go to it at once, and B's wait until A has none. So
A B A A C is served as A A A B C, with two switches in place of four. Two bounds, declared by the owner, limit that:

- a model that has become ready stays for ``least_residency_s``, unless nobody waits for another one;
- where a request for another model has waited for ``longest_wait_s``, A takes only older requests than that one, and
  makes room when those that it has begun have ended.

The next model is always that of the oldest waiting request, so nobody starves. Models that may run side by side share
no queue.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Optional


@dataclass(frozen=True)
class Served:
    """A model. ``excludes``: names of those that cannot run beside it; ``concurrency``: requests that it gets at once;
    ``idle_stop_s``: seconds without a request after which it is stopped, None for never."""

    name: str
    excludes: frozenset[str] = frozenset()
    concurrency: int = 1
    idle_stop_s: Optional[float] = None


@dataclass(frozen=True)
class Bounds:
    """What the owner declares about the queue: seconds, and how many requests may wait for one model."""

    least_residency_s: float = 0
    longest_wait_s: float = math.inf
    queue_length: int = 100
    default: Optional[str] = None
    default_returns_s: Optional[float] = None
    """Seconds without a request for another model after which the default model comes back; None for never."""
    failure_pause_s: float = 30
    """Seconds for which a model that could not start is not tried again."""


# --- actions ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Action:
    """What the caller is to do."""


@dataclass(frozen=True)
class Admit(Action):
    """Send a waiting request to its model, which is ready."""

    ticket: int


@dataclass(frozen=True)
class Refuse(Action):
    """Answer a request without a model. ``is_full``: the queue is; otherwise its model cannot start."""

    ticket: int
    reason: str
    retry_after_s: float
    is_full: bool = False


@dataclass(frozen=True)
class Start(Action):
    """Start a model's unit, which stops the units that it excludes; then report `started` or `failed`."""

    model: str


@dataclass(frozen=True)
class Stop(Action):
    """Stop a model's unit, which nobody uses; then report `stopped`."""

    model: str


# --- state ------------------------------------------------------------------------------------------------------------


class Phase(Enum):
    """Where a model's unit is, as far as the front knows."""

    STOPPED = "stopped"
    STARTING = "loading"
    READY = "loaded"
    STOPPING = "stopping"


_NEVER = (math.inf, 0)


@dataclass
class _Model:
    served: Served
    phase: Phase = Phase.STOPPED
    since: float = 0
    """When the phase began."""
    last_used: float = 0
    running: set[int] = field(default_factory=set)
    waiting: dict[int, tuple[float, int]] = field(default_factory=dict)
    """Ticket -> when it arrived, and the number of its arrival; oldest first."""
    displaced_by: str = ""
    """The model whose start has stopped this one; it is to come back if that fails, or if it is the default."""
    returns: bool = False
    """Whether it is started again without a request, since what displaced it has failed."""
    broken_until: float = -math.inf
    reason: str = ""

    @property
    def oldest(self) -> tuple[float, int]:
        """When the oldest waiting request arrived, and its number; infinite where none waits."""
        return next(iter(self.waiting.values()), _NEVER)

    @property
    def is_idle(self) -> bool:
        return not self.running and not self.waiting

    def enter(self, phase: Phase, now: float) -> None:
        self.phase, self.since = phase, now


@dataclass(frozen=True)
class ModelState:
    """A model for people and metrics. ``since``: when the phase began; ``problem``: why its last start failed."""

    phase: Phase
    since: float
    running: int
    waiting: int
    problem: str = ""


class Scheduler:
    """The queue of one front. A ticket is a number of the caller's for one request; no two requests share one."""

    def __init__(self, models: Iterable[Served], bounds: Bounds) -> None:
        self._models = {served.name: _Model(served) for served in models}
        self._bounds = bounds
        self._model_of: dict[int, str] = {}
        self._arrivals = itertools.count()

    # --- events ---------------------------------------------------------------------------------------------------

    def arrive(self, ticket: int, model: str, now: float) -> list[Action]:
        """A request for a model has arrived. It is admitted or refused, now or by a later event."""
        found = self._models[model]
        if now < found.broken_until:
            return [Refuse(ticket, found.reason, math.ceil(found.broken_until - now))]
        if len(found.waiting) >= self._bounds.queue_length:
            reason = f"{len(found.waiting)} requests wait for {model} already"
            return [Refuse(ticket, reason, max(1, math.ceil(self._bounds.least_residency_s)), is_full=True)]
        self._model_of[ticket] = model
        found.waiting[ticket] = (now, next(self._arrivals))
        return self._settle(now)

    def leave(self, ticket: int, now: float) -> list[Action]:
        """A request has been answered, or its client is gone."""
        name = self._model_of.pop(ticket, None)
        if name is None:
            return []
        model = self._models[name]
        if ticket in model.running:
            model.last_used = now
        model.running.discard(ticket)
        model.waiting.pop(ticket, None)
        return self._settle(now)

    def started(self, name: str, now: float) -> list[Action]:
        """A started model is ready."""
        model = self._models[name]
        model.enter(Phase.READY, now)
        model.last_used, model.displaced_by, model.returns, model.reason = now, "", False, ""
        for other in self._excluded_by(model):
            if other.phase is not Phase.STOPPED:
                other.enter(Phase.STOPPED, now)
        return self._settle(now)

    def failed(self, name: str, reason: str, now: float) -> list[Action]:
        """A model could not be started: its waiting requests get the reason, and what it displaced comes back."""
        model = self._models[name]
        model.enter(Phase.STOPPED, now)
        model.reason, model.returns = reason, False
        model.broken_until = now + self._bounds.failure_pause_s
        actions: list[Action] = [Refuse(ticket, reason, self._bounds.failure_pause_s) for ticket in model.waiting]
        for ticket in model.waiting:
            del self._model_of[ticket]
        model.waiting.clear()
        for other in self._excluded_by(model):
            if other.phase is Phase.STOPPING and other.displaced_by == name:
                other.enter(Phase.STOPPED, now)
                other.returns = True
        return actions + self._settle(now)

    def stopped(self, name: str, now: float) -> list[Action]:
        """A model that was to be stopped has stopped."""
        self._models[name].enter(Phase.STOPPED, now)
        return self._settle(now)

    def observe(self, name: str, answers: bool, now: float) -> list[Action]:
        """Whether a model answers, as a look at it has found: it may have crashed, or been switched by hand.

        While the front itself starts or stops it, that tells nothing new.
        """
        model = self._models[name]
        if answers and model.phase is Phase.STOPPED:
            model.enter(Phase.READY, now)
            model.last_used, model.displaced_by, model.returns = now, "", False
            model.broken_until, model.reason = -math.inf, ""
            for other in self._excluded_by(model):
                if other.phase is Phase.STOPPED:
                    other.displaced_by = name
        elif not answers and model.phase is Phase.READY:
            model.enter(Phase.STOPPED, now)
            # Stopped by hand or crashed, it stays down until a request comes, unless another model has taken its place.
            ready = (other for other in self._excluded_by(model) if other.phase is Phase.READY)
            model.displaced_by = next((other.served.name for other in ready), "")
        return self._settle(now)

    def preload(self, name: str, now: float) -> list[Action]:
        """Start a model without a request, where none that it excludes runs."""
        model = self._models[name]
        if model.phase is Phase.STOPPED:
            model.returns = True
        return self._settle(now)

    def tick(self, now: float) -> list[Action]:
        """Time has passed."""
        return self._settle(now)

    # --- questions ------------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return sum(len(model.waiting) for model in self._models.values())

    def state(self, name: str) -> ModelState:
        """A model's state."""
        model = self._models[name]
        return ModelState(model.phase, model.since, len(model.running), len(model.waiting), model.reason)

    def ahead(self, ticket: int) -> int:
        """How many waiting requests are likely served before this one; 0 for one that does not wait."""
        model = self._models[self._model_of[ticket]] if ticket in self._model_of else None
        if model is None or ticket not in model.waiting:
            return 0
        own = list(model.waiting).index(ticket)
        if model.phase in (Phase.READY, Phase.STARTING):
            return own
        earlier = (
            other
            for other in self._excluded_by(model)
            if other.phase in (Phase.READY, Phase.STARTING) or other.oldest < model.oldest
        )
        return own + sum(len(other.waiting) for other in earlier)

    def next_change(self, now: float) -> Optional[float]:
        """When `tick` has something to do if nothing happens before; None for never."""
        return min((each for each in self._deadlines() if now < each < math.inf), default=None)

    # --- decisions ------------------------------------------------------------------------------------------------

    def _settle(self, now: float) -> list[Action]:
        actions: list[Action] = []
        for model in self._models.values():
            if model.phase is Phase.READY:
                actions += self._admit(model, now)
        actions += self._start_what_is_waited_for(now)
        for model in self._models.values():
            if self._is_due_to_stop(model, now):
                model.enter(Phase.STOPPING, now)
                model.displaced_by = ""
                actions.append(Stop(model.served.name))
        for model in self._models.values():
            if self._is_due_to_return(model, now):
                actions.append(self._begin(model, now))
        return actions

    def _admit(self, model: _Model, now: float) -> Iterator[Action]:
        closes = min((other.oldest for other in self._overdue(model, now)), default=_NEVER)
        for ticket, arrived in list(model.waiting.items()):
            if len(model.running) >= model.served.concurrency or arrived > closes:
                return
            del model.waiting[ticket]
            model.running.add(ticket)
            yield Admit(ticket)

    def _overdue(self, model: _Model, now: float) -> Iterator[_Model]:
        """Models for which this one, which is ready, has to make room as soon as it can."""
        if now < model.since + self._bounds.least_residency_s:
            return
        for other in self._excluded_by(model):
            if other.phase is Phase.STOPPED and now >= other.oldest[0] + self._bounds.longest_wait_s:
                yield other

    def _start_what_is_waited_for(self, now: float) -> Iterator[Action]:
        """Start the model of the oldest waiting request, and every other that excludes none with an older one."""
        claimed: set[str] = set()
        for model in sorted(self._models.values(), key=lambda each: each.oldest):
            if not model.waiting:
                return
            if model.phase is not Phase.STOPPED or model.served.name in claimed:
                continue
            claimed |= model.served.excludes
            if all(self._makes_room(other, model, now) for other in self._excluded_by(model)):
                yield self._begin(model, now)

    def _makes_room(self, model: _Model, wanted: _Model, now: float) -> bool:
        """Whether a model may be stopped now for another one that is waited for."""
        if model.phase is Phase.STOPPED:
            return True
        if model.phase is not Phase.READY or model.running:
            return False
        if now < model.since + self._bounds.least_residency_s:
            return False
        is_overdue = now >= wanted.oldest[0] + self._bounds.longest_wait_s
        return not model.waiting or (is_overdue and model.oldest > wanted.oldest)

    def _begin(self, model: _Model, now: float) -> Start:
        for other in self._excluded_by(model):
            other.returns = False
            if other.phase is Phase.READY:
                other.enter(Phase.STOPPING, now)
                other.displaced_by = model.served.name
        model.enter(Phase.STARTING, now)
        model.returns = False
        return Start(model.served.name)

    def _is_due_to_stop(self, model: _Model, now: float) -> bool:
        idle_stop_s = model.served.idle_stop_s
        if model.phase is not Phase.READY or idle_stop_s is None or not model.is_idle:
            return False
        return now >= model.last_used + idle_stop_s

    def _is_due_to_return(self, model: _Model, now: float) -> bool:
        if model.phase is not Phase.STOPPED or now < model.broken_until:
            return False
        others = list(self._excluded_by(model))
        if any(other.waiting or other.running for other in others):
            return False
        if model.returns:
            return all(other.phase is Phase.STOPPED for other in others)
        return now >= self._default_returns_at(model) and all(
            other.phase is Phase.STOPPED
            or (other.phase is Phase.READY and now >= other.since + self._bounds.least_residency_s)
            for other in others
        )

    def _default_returns_at(self, model: _Model) -> float:
        """When the default model comes back, if no request comes before; infinite for other models."""
        after = self._bounds.default_returns_s
        if model.served.name != self._bounds.default or after is None or not model.displaced_by:
            return math.inf
        return max((other.last_used for other in self._excluded_by(model)), default=model.since) + after

    def _deadlines(self) -> Iterator[float]:
        for model in self._models.values():
            if model.phase is Phase.READY:
                yield model.since + self._bounds.least_residency_s
                if model.served.idle_stop_s is not None:
                    yield model.last_used + model.served.idle_stop_s
            elif model.waiting:
                yield model.oldest[0] + self._bounds.longest_wait_s
            if model.phase is Phase.STOPPED:
                yield self._default_returns_at(model)
                if model.displaced_by or model.returns:
                    yield model.broken_until

    def _excluded_by(self, model: _Model) -> Iterator[_Model]:
        for name in model.served.excludes:
            yield self._models[name]
