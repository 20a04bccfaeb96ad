"""How long a download without progress is retried, and how long it waits before each attempt."""

from __future__ import annotations

import time

from llamarig.remote.download.transfer import RetryableError

ATTEMPTS = 6
"""Failures in a row, without progress, that are no outages."""
LONGEST_WAIT_S = 600
"""A server that asks for a longer pause (Retry-After) ends the download instead."""
_LONGEST_STEP_S = 30.0


class RetryWindow:
    """The retries of one file: outages are retried for a time, other failures a number of times.

    :param give_up_after_s: of an outage, since the last progress
    :param backoff_s: wait before the second attempt; doubled before each further one
    """

    def __init__(self, give_up_after_s: float, backoff_s: float) -> None:
        self._give_up_after_s, self._backoff_s = give_up_after_s, backoff_s
        self.restart()

    def restart(self) -> None:
        """Start counting anew: the download has made progress."""
        self._attempts = self._counted = 0
        self._since = time.monotonic()

    def wait(self, error: RetryableError) -> float:
        """Count this failure; returns the seconds to wait before the next attempt."""
        self._attempts += 1
        self._counted += not error.outage
        if error.after_s is not None:
            return error.after_s
        return min(_LONGEST_STEP_S, self._backoff_s * 2.0 ** min(self._attempts - 1, 16))

    def exhausted(self, error: RetryableError) -> str | None:
        """Why there is no further attempt, for the message; None when there is one."""
        passed = time.monotonic() - self._since
        if error.outage and passed >= self._give_up_after_s:
            return f"for {passed / 60:.0f} min without progress" if passed >= 60 else f"for {passed:.0f} s"
        if self._counted >= ATTEMPTS:
            return f"attempt {self._counted} without progress"
        if (error.after_s or 0) > LONGEST_WAIT_S:
            return f"asked to wait {error.after_s:.0f} s"
        return None
