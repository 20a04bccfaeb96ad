"""Runs the queue: gives the scheduler the time and what happens, and does what it decides."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Optional

from llamarig.remote.front.scheduler import Action, Admit, Bounds, Phase, Refuse, Scheduler, Served, Start, Stop
from llamarig.remote.front.settings import FrontSettings
from llamarig.remote.front.units import HelperError, Units

_ANSWERS_WITHIN_S = 60.0
"""Seconds from systemd's word that a unit has started: its own start waits until the model answers."""
_POLL_S = 0.1
_LOOK_S = 5.0
"""Between two looks at what answers, which notice crashes and switches by hand."""
_KEPT_SWITCHES = 20


class NotServedError(Exception):
    """A request that no model answers; the message says why. ``is_full``: too many wait."""

    def __init__(self, reason: str, retry_after_s: float, is_full: bool) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s
        self.is_full = is_full


@dataclass(frozen=True)
class Switch:
    """A start of a model. ``at``: wall-clock seconds; ``took_s``: until it answered or failed; ``problem``: why."""

    at: float
    model: str
    took_s: float
    problem: str = ""


class Place:
    """A request's place in the queue of its model. `leave` it, whatever happens."""

    def __init__(self, dispatcher: Dispatcher, ticket: int, model: str) -> None:
        self.model = model
        self.admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.arrived = time.monotonic()
        self._dispatcher = dispatcher
        self._ticket = ticket

    async def wait(self, timeout_s: float) -> bool:
        """Wait until it is this request's turn; return False if it is not after this time.

        :raises NotServedError: if it will not be
        """
        if not self.admitted.done() and not (await asyncio.wait({self.admitted}, timeout=timeout_s))[0]:
            return False
        self.admitted.result()
        return True

    def describe(self) -> str:
        """What the request waits for, in words."""
        return self._dispatcher.describe(self._ticket, self.model)

    def leave(self) -> None:
        """The request has ended."""
        self._dispatcher.leave(self._ticket)
        if self.admitted.done() and not self.admitted.cancelled():
            self.admitted.exception()  # or asyncio reports that nobody has looked at it
        self.admitted.cancel()


class Dispatcher:
    """The queue of a running front."""

    def __init__(
        self,
        settings: FrontSettings,
        units: Units,
        is_up: Callable[[str], Awaitable[bool]],
        failure_pause_s: float = 30,
    ) -> None:
        """:param is_up: whether a model answers"""
        self.scheduler = Scheduler(
            (
                Served(model.name, frozenset(model.excludes), model.concurrency, model.idle_stop_s)
                for model in settings.models
            ),
            Bounds(
                least_residency_s=settings.least_residency_s,
                longest_wait_s=settings.longest_wait_s,
                queue_length=settings.queue_length,
                default=settings.default,
                default_returns_s=settings.default_returns_s,
                failure_pause_s=failure_pause_s,
            ),
        )
        self.switches: deque[Switch] = deque(maxlen=_KEPT_SWITCHES)
        self.started: dict[tuple[str, bool], int] = {}
        """(model, whether it answered) -> how often it was started."""
        self._settings, self._units, self._is_up = settings, units, is_up
        self._tickets = itertools.count()
        self._places: dict[int, Place] = {}
        self._timer: Optional[asyncio.TimerHandle] = None
        self._tasks: set[asyncio.Task[None]] = set()

    # --- requests -------------------------------------------------------------------------------------------------

    def arrive(self, model: str) -> Place:
        """Put a request into the queue."""
        ticket = next(self._tickets)
        place = self._places[ticket] = Place(self, ticket, model)
        self._perform(self.scheduler.arrive(ticket, model, time.monotonic()))
        return place

    def leave(self, ticket: int) -> None:
        """A request has ended; of several calls the first counts."""
        if self._places.pop(ticket, None) is not None:
            self._perform(self.scheduler.leave(ticket, time.monotonic()))

    def describe(self, ticket: int, model: str) -> str:
        """What a request waits for."""
        state, ahead = self.scheduler.state(model), self.scheduler.ahead(ticket)
        before = f"{ahead} request{'' if ahead == 1 else 's'} before this one" if ahead else "this request is next"
        if state.phase is Phase.STARTING:
            return f"loading {model} for {time.monotonic() - state.since:.0f} s, {before}"
        if state.phase is Phase.READY:
            return f"waiting for a slot of {model}, {before}"
        return f"waiting until {model} can be loaded, {before}"

    # --- the models -----------------------------------------------------------------------------------------------

    async def look(self) -> None:
        """Look once which models answer."""
        names = [model.name for model in self._settings.models]
        found = await asyncio.gather(*map(self._is_up, names))
        # Those that answer first, so that a switch by hand is seen as one.
        for index in sorted(range(len(names)), key=lambda each: not found[each]):
            self._perform(self.scheduler.observe(names[index], found[index], time.monotonic()))

    async def run(self) -> None:
        """Preload, and keep looking which models answer; never returns."""
        await self.look()
        for name in self._settings.preload:
            self._perform(self.scheduler.preload(name, time.monotonic()))
        while True:
            await asyncio.sleep(_LOOK_S)
            await self.look()

    def is_down(self, model: str) -> None:
        """A request has found that a model does not answer any more."""
        self._perform(self.scheduler.observe(model, False, time.monotonic()))

    # --- actions --------------------------------------------------------------------------------------------------

    def _perform(self, actions: Iterable[Action]) -> None:
        for action in actions:
            if isinstance(action, Admit):
                self._settled(action.ticket, None)
            elif isinstance(action, Refuse):
                self._settled(action.ticket, NotServedError(action.reason, action.retry_after_s, action.is_full))
            elif isinstance(action, Start):
                self._begin(self._start(action.model))
            elif isinstance(action, Stop):
                self._begin(self._stop(action.model))
        self._set_timer()

    def _settled(self, ticket: int, problem: Optional[NotServedError]) -> None:
        place = self._places.get(ticket)
        if place is None or place.admitted.done():
            return
        if problem is None:
            place.admitted.set_result(None)
        else:
            place.admitted.set_exception(problem)

    def _begin(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _start(self, model: str) -> None:
        began, problem = time.monotonic(), ""
        try:
            await self._units.start(model)
            await self._until_it_answers(model)
        except HelperError as error:
            problem = f"{model} does not start: {error}"
        now = time.monotonic()
        print(problem or f"{model} is loaded, after {now - began:.1f} s", flush=True)
        self.switches.append(Switch(time.time(), model, now - began, problem))
        self.started[model, not problem] = self.started.get((model, not problem), 0) + 1
        if problem:
            self._perform(self.scheduler.failed(model, problem, now))
        else:
            self._perform(self.scheduler.started(model, now))

    async def _until_it_answers(self, model: str) -> None:
        deadline = time.monotonic() + _ANSWERS_WITHIN_S
        while not await self._is_up(model):
            if time.monotonic() > deadline:
                raise HelperError("its unit runs, and its server does not answer")
            await asyncio.sleep(_POLL_S)

    async def _stop(self, model: str) -> None:
        try:
            await self._units.stop(model)
        except HelperError as error:
            print(f"{model} does not stop: {error}", flush=True)
        self._perform(self.scheduler.stopped(model, time.monotonic()))

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = time.monotonic()
        due = self.scheduler.next_change(now)
        if due is not None:
            self._timer = asyncio.get_running_loop().call_later(due - now + 0.001, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._perform(self.scheduler.tick(time.monotonic()))
