"""The queue of the front, over simulated arrivals: collated by model, within bounds, and nobody starves."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llamarig.remote.front.scheduler import Admit, Bounds, Phase, Scheduler, Served, Start

from tests.remote.front.simulated_queue import STOP_S, Request, Simulation

EXCLUSIVE = ("a", "b", "c")
COEXISTING = ("embed", "rerank")


def box(concurrency: int = 2, idle_stop_s: float | None = None) -> list[Served]:
    """Three models of which one runs at a time, and two that run beside any."""
    return [
        *(Served(name, frozenset(EXCLUSIVE) - {name}, concurrency, idle_stop_s) for name in EXCLUSIVE),
        *(Served(name, concurrency=concurrency) for name in COEXISTING),
    ]


def at_once(models: str, takes_s: float = 5, spacing_s: float = 0.1) -> list[Request]:
    return [Request(index * spacing_s, model, takes_s) for index, model in enumerate(models)]


# --- examples ---------------------------------------------------------------------------------------------------------


def test_requests_are_collated_by_model() -> None:
    done = Simulation(box(1), loaded=("a",)).run(at_once("abaac"))
    assert "".join(done.order) == "aaabc"
    assert done.starts == ["b", "c"]


def test_in_order_of_arrival_it_would_be_four_switches() -> None:
    """What collation saves: each waits until the one before has been answered."""
    order = "".join(Simulation(box(1), Bounds(longest_wait_s=0), loaded=("a",)).run(at_once("abaac")).order)
    assert order == "abaac"


def test_a_request_that_has_waited_long_enough_is_next() -> None:
    """A stream of requests for a keeps coming; b waits for 20 s, and for those that a has begun."""
    stream = [Request(second, "a", 3) for second in range(100)]
    done = Simulation(box(4), Bounds(longest_wait_s=20), loaded=("a",)).run([*stream, Request(5, "b", 1)])
    waited = done.outcomes[-1].admitted
    assert waited is not None
    assert 5 + 20 <= waited <= 5 + 20 + 3 + 10 + 0.001
    assert all(outcome.ended is not None for outcome in done.outcomes)


def test_a_model_stays_for_its_least_residency() -> None:
    requests = [Request(0, "b", 1), Request(0.5, "a", 1)]
    done = Simulation(box(), Bounds(least_residency_s=30), loaded=("a",)).run(requests)
    # a is loaded at 0, so b's start waits for 30 s, while a answers its own request at once.
    assert done.outcomes[1].admitted == 0.5
    assert done.events[0] == (30, "start", "b")


def test_models_that_coexist_never_wait_for_each_other() -> None:
    done = Simulation(box(1), loaded=("a", "embed")).run([*at_once("abc"), Request(1, "embed"), Request(3, "rerank")])
    assert done.outcomes[3].admitted == 1
    assert done.outcomes[4].admitted == 3 + 10


def test_a_model_that_cannot_start_gives_its_reason_and_the_one_before_comes_back() -> None:
    done = Simulation(box(), broken=frozenset("b"), loaded=("a",)).run([Request(1, "b"), Request(2, "b")])
    assert [outcome.refused.reason for outcome in done.outcomes if outcome.refused] == ["b is broken"] * 2
    assert done.starts == ["b", "a"]
    assert done.scheduler.state("a").phase is Phase.READY
    assert done.scheduler.state("b").problem == "b is broken"


def test_after_a_failure_it_is_not_tried_again_at_once() -> None:
    requests = [Request(1, "b"), Request(20, "b"), Request(100, "b")]
    done = Simulation(box(), Bounds(failure_pause_s=60), broken=frozenset("b"), loaded=("a",)).run(requests)
    assert done.starts == ["b", "a", "b", "a"]
    second = done.outcomes[1].refused
    assert second is not None
    assert (second.reason, second.retry_after_s) == ("b is broken", 51)


def test_a_full_queue_refuses_and_says_when_to_come_again() -> None:
    bounds = Bounds(queue_length=2, least_residency_s=7)
    done = Simulation(box(1), bounds, loaded=("a",)).run([*at_once("aaaa"), Request(0.9, "embed")])
    refused = [outcome.refused for outcome in done.outcomes]
    assert [one.is_full if one else False for one in refused] == [False, False, False, True, False]
    assert refused[3] is not None
    assert refused[3].retry_after_s == 7


def test_a_client_that_hangs_up_frees_its_place() -> None:
    requests = [Request(0, "a", 100, gives_up_after_s=3), Request(1, "a", 1)]
    done = Simulation(box(1), loaded=("a",)).run(requests)
    assert done.outcomes[1].admitted == 3


def test_an_idle_model_is_stopped_and_started_again_by_a_request() -> None:
    done = Simulation(box(idle_stop_s=60), loaded=("a",)).run([Request(5, "a", 2), Request(200, "a")])
    assert done.events[0] == (67.0, "stop", "a")
    assert done.outcomes[1].admitted == 210


def test_the_default_model_returns_after_a_time() -> None:
    bounds = Bounds(default="a", default_returns_s=300)
    done = Simulation(box(), bounds, loaded=("a",)).run([Request(0, "b", 5), Request(100, "b", 5)], until=1000)
    assert done.events == [(0, "start", "b"), (10, "ready", "b"), (405, "start", "a"), (415, "ready", "a")]


def test_the_default_model_stays_down_where_it_was_stopped_by_hand() -> None:
    scheduler = Scheduler(box(), Bounds(default="a", default_returns_s=1))
    scheduler.observe("a", True, 0)
    scheduler.observe("a", False, 10)
    assert scheduler.tick(100) == []


def test_a_switch_by_hand_is_noticed() -> None:
    scheduler = Scheduler(box(), Bounds(default="a", default_returns_s=60))
    for answering in ("a", "b"):
        assert scheduler.observe(answering, True, 5) == []
    assert scheduler.observe("a", False, 6) == []
    assert scheduler.arrive(1, "b", 7) == [Admit(1)]
    scheduler.leave(1, 8)
    assert scheduler.tick(60) == []
    assert scheduler.tick(68) == [Start("a")]


def test_what_is_preloaded_starts_without_a_request() -> None:
    scheduler = Scheduler(box(), Bounds())
    assert scheduler.preload("embed", 0) == [Start("embed")]
    scheduler.observe("a", True, 0)
    assert scheduler.preload("b", 0) == []


@pytest.mark.parametrize(("ticket", "ahead"), [(1, 0), (2, 0), (3, 2), (4, 1), (5, 3)])
def test_a_request_knows_how_many_are_likely_served_before_it(ticket: int, ahead: int) -> None:
    scheduler = Scheduler(box(1), Bounds())
    scheduler.observe("a", True, 0)
    for number, model in enumerate("aababc", start=1):
        scheduler.arrive(number, model, number)
    # 1 is answered now, 2 and 4 wait for a, 3 and 5 for b, 6 for c.
    assert scheduler.ahead(ticket) == ahead


# --- properties -------------------------------------------------------------------------------------------------------


def seconds(least: int, most: int) -> st.SearchStrategy[float]:
    """Whole ones, so that sums of them are exact."""
    return st.integers(least, most).map(float)


REQUESTS = st.lists(
    st.builds(
        Request,
        at=seconds(0, 200),
        model=st.sampled_from([*EXCLUSIVE, *COEXISTING]),
        takes_s=seconds(1, 20),
        gives_up_after_s=st.none() | seconds(1, 100),
    ),
    max_size=30,
)
BOUNDS = st.builds(
    Bounds,
    least_residency_s=seconds(0, 30),
    longest_wait_s=seconds(30, 200),
    queue_length=st.integers(1, 50),
    default=st.sampled_from([None, "a"]),
    default_returns_s=st.none() | seconds(1, 100),
    failure_pause_s=seconds(0, 60),
)
LOADS = st.fixed_dictionaries({name: seconds(1, 60) for name in (*EXCLUSIVE, *COEXISTING)})


@given(
    requests=REQUESTS,
    bounds=BOUNDS,
    load_s=LOADS,
    concurrency=st.integers(1, 4),
    idle_stop_s=st.none() | seconds(1, 100),
    broken=st.sets(st.sampled_from(EXCLUSIVE), max_size=2),
)
@settings(max_examples=80)
def test_every_request_has_one_answer_and_no_model_is_stopped_while_it_answers(
    requests: list[Request],
    bounds: Bounds,
    load_s: dict[str, float],
    concurrency: int,
    idle_stop_s: float | None,
    broken: set[str],
) -> None:
    """The simulation itself asserts the rest: limits, least residencies, exclusion, and one answer at most."""
    models = box(concurrency, idle_stop_s)
    done = Simulation(models, bounds, load_s, broken=frozenset(broken)).run(requests, until=5000)
    for outcome in done.outcomes:
        assert [outcome.ended, outcome.refused, outcome.gave_up].count(None) == 2
    assert done.scheduler.waiting == 0
    assert all(done.scheduler.state(model.name).running == 0 for model in models)


@given(requests=REQUESTS, bounds=BOUNDS, load_s=LOADS, concurrency=st.integers(1, 4))
@settings(max_examples=80)
def test_nobody_starves(requests: list[Request], bounds: Bounds, load_s: dict[str, float], concurrency: int) -> None:
    """A request waits for its bound, and then for one turn of each exclusive model: its least residency, what it has
    begun, and the next one's load. Older requests of one model may need more turns of answers than one."""
    done = Simulation(box(concurrency), bounds, load_s).run(requests, until=5000)
    load, answer = max(load_s.values()), 20
    turn = bounds.least_residency_s + load + STOP_S + answer
    for request, outcome in zip(requests, done.outcomes, strict=True):
        if outcome.admitted is not None:
            older = sum(other.at <= request.at for other in requests)
            limit = bounds.longest_wait_s + (len(EXCLUSIVE) + 1) * turn + older * answer / concurrency
            assert outcome.admitted - request.at <= limit


@given(requests=REQUESTS, bounds=BOUNDS, load_s=LOADS)
@settings(max_examples=60)
def test_models_that_coexist_are_served_as_if_they_were_alone(
    requests: list[Request], bounds: Bounds, load_s: dict[str, float]
) -> None:
    together = Simulation(box(), bounds, load_s).run(requests, until=5000)
    own = [index for index, request in enumerate(requests) if request.model in COEXISTING]
    alone = Simulation(box(), bounds, load_s).run([requests[index] for index in own], until=5000)
    assert [together.outcomes[index].admitted for index in own] == [outcome.admitted for outcome in alone.outcomes]


@given(models=st.text("abc", max_size=30), takes_s=seconds(1, 5))
@settings(max_examples=60)
def test_without_a_longest_wait_each_model_is_loaded_once(models: str, takes_s: float) -> None:
    """All arrive while the first is answered, so one turn of each model is enough."""
    done = Simulation(box(), Bounds(longest_wait_s=math.inf)).run(at_once(models, takes_s, spacing_s=0))
    assert sorted(done.starts) == sorted(set(models))
    assert done.order == sorted(done.order, key=models.index)
