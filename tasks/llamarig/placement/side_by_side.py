"""Performs the steps of several generators at once, so that a caller answers the requests of all of them together."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TypeVar

Q = TypeVar("Q")
A = TypeVar("A")
T = TypeVar("T")

Steps = Generator[list[Q], list[A], T]
"""Yields requests that may be answered in any order, and is sent the answers in the order of the requests."""


def one_by_one(steps: Generator[Q, A, T]) -> Steps[Q, A, T]:
    """A generator that yields one request at a time, as one that yields lists."""
    try:
        request = next(steps)
        while True:
            (answer,) = yield [request]
            request = steps.send(answer)
    except StopIteration as end:
        result: T = end.value
        return result


def side_by_side(several: Sequence[Steps[Q, A, T]]) -> Steps[Q, A, list[T]]:
    """Run all of them to their ends, each round with the open requests of all; return their results in order."""
    results: dict[int, T] = {}
    waiting: dict[int, list[Q]] = {}

    def advance(number: int, answers: list[A] | None) -> None:
        steps = several[number]
        try:
            waiting[number] = next(steps) if answers is None else steps.send(answers)
        except StopIteration as end:
            waiting.pop(number, None)
            results[number] = end.value

    for number in range(len(several)):
        advance(number, None)
    while waiting:
        asked = {number: list(requests) for number, requests in waiting.items()}
        answers = yield [request for requests in asked.values() for request in requests]
        at = 0
        for number, requests in asked.items():
            advance(number, answers[at : at + len(requests)])
            at += len(requests)
    return [results[number] for number in range(len(several))]
