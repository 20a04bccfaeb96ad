"""How long a download that does not get on is tried again, and how long it waits before each time.

Runs on the box under its own Python (3.9 or newer), standard library only.
"""

from __future__ import annotations

import time

from tasks.files.hub_client import TryAgainError

ATTEMPTS = 6
"""Failures in a row, without progress, of a kind that does not pass by waiting."""
LONGEST_WAIT_S = 600
"""A server that asks to be left alone for longer is told of, not waited for."""
_LONGEST_STEP_S = 30.0


class Patience:
    """With one file: outages are waited for by the clock, whatever else goes wrong is counted.

    :param give_up_after_s: of an outage, since something last came
    :param backoff_s: before the second attempt; twice as much before each further one
    """

    def __init__(self, give_up_after_s: float, backoff_s: float) -> None:
        self._give_up_after_s, self._backoff_s = give_up_after_s, backoff_s
        self._attempts = self._counted = 0
        self._since = time.monotonic()

    def restart(self) -> None:
        """Something has come."""
        self._attempts = self._counted = 0
        self._since = time.monotonic()

    def wait(self, error: TryAgainError) -> float:
        """Seconds to wait after this failure."""
        self._attempts += 1
        self._counted += not error.outage
        if error.after_s is not None:
            return error.after_s
        return min(_LONGEST_STEP_S, self._backoff_s * 2.0 ** min(self._attempts - 1, 16))

    def spent(self, error: TryAgainError) -> str | None:
        """How long it was tried, when that was long enough; None as long as it is worth another attempt."""
        passed = time.monotonic() - self._since
        if error.outage and passed >= self._give_up_after_s:
            return f"for {passed / 60:.0f} min without progress" if passed >= 60 else f"for {passed:.0f} s"
        if self._counted >= ATTEMPTS:
            return f"attempt {self._counted} without progress"
        if (error.after_s or 0) > LONGEST_WAIT_S:
            return f"asked to wait {error.after_s:.0f} s"
        return None
