"""Errors of a download that may be worth another attempt."""

from __future__ import annotations


class RetryableError(Exception):
    """A failure that may not happen again.

    :param after_s: seconds the server asked to wait (Retry-After)
    :param outage: the server cannot be reached or reports a temporary failure: retried by the clock, not counted
    """

    def __init__(self, message: str, after_s: float | None = None, *, outage: bool = False) -> None:
        super().__init__(message)
        self.after_s, self.outage = after_s, outage


class RangeIgnoredError(RetryableError):
    """The server sent something else than the requested range."""

    def __init__(self, message: str) -> None:
        super().__init__(message, outage=True)


class HfTransferError(RetryableError):
    """hf_transfer failed: retry at once, with Range requests."""

    def __init__(self, message: str) -> None:
        super().__init__(message, after_s=0)


class HfTransferStalledError(HfTransferError):
    """hf_transfer brought no chunk for too long."""


class MismatchError(RetryableError):
    """The whole file arrived, with another sha256 than the locked one."""


class CancelledError(Exception):
    """The job ends because another file failed."""
