"""Downloads one model file: chooses the method, resumes, retries, and checks the sha256.

The file grows as a sparse file under a partial name, so what has arrived survives any kill.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from llamarig.remote.download.hf_transfer_process import hf_transfer, link_of
from llamarig.remote.download.hub_client import Hub
from llamarig.remote.download.incremental_sha256 import IncrementalSha256
from llamarig.remote.download.range_download import RangeDownload, RateLimit
from llamarig.remote.download.retry_window import RetryWindow
from llamarig.remote.download.sparse_file import gaps, length
from llamarig.remote.download.transfer import (
    CancelledError,
    HfTransferError,
    HfTransferStalledError,
    MismatchError,
    RangeIgnoredError,
    RetryableError,
    Transfer,
)
from llamarig.remote.download.verified_files import sha256_of
from llamarig.remote.shared.job_status import JobFailedError
from llamarig.remote.shared.jobs import FetchFile, FetchJob

WAITING = "waiting for its turn"
_PROGRESS = 1024**2
"""Bytes with which an attempt counts as progress. A download that makes progress is retried without end."""


@dataclass
class Session:
    """What all downloads of a job share."""

    job: FetchJob
    hub: Hub
    lock: int
    limit: RateLimit | None
    cancelled: threading.Event
    connections: Callable[[], int]
    """How many connections a transfer that starts now may open."""
    use_hf_transfer: bool
    """Set to False when a chunk took too long: the line is as slow for the next file."""

    def raise_if_cancelled(self, done: int) -> None:
        """Called while a file is hashed, with the bytes done."""
        if self.cancelled.is_set():
            raise CancelledError


class FileDownload:
    """One file of the job."""

    def __init__(self, file: FetchFile) -> None:
        self.file = file
        self.target, self.part = Path(file.target), Path(file.partial)
        self.name = self.target.name
        self.size = file.size
        self.step = WAITING
        self.present = 0
        """Bytes that are on the disk."""
        self.arrived = False
        self._hf_transfer_tried = False

    def run(self, session: Session) -> None:
        """Download until the partial file is complete and its sha256 is the locked one.

        :raises JobFailedError: when retries are useless or have lasted long enough
        :raises CancelledError: when another file has failed
        """
        retries = RetryWindow(session.job.give_up_after_s, session.job.backoff_s)
        # Of an hf_transfer that was killed with its parent.
        link_of(self.part).unlink(missing_ok=True)
        mismatches = ranges_ignored = 0
        while True:
            before = self.present = self._bytes_present()
            try:
                self._attempt(session, mismatches, ranges_ignored)
                return
            except RetryableError as error:
                self.present = self._bytes_present()
                mismatches += isinstance(error, MismatchError)
                if self.present - before >= min(_PROGRESS, self.size):
                    retries.restart()
                    ranges_ignored = 0
                ranges_ignored += isinstance(error, RangeIgnoredError)
                print(f"{self.name}: {error}; {self.present} of {self.size} bytes are there", flush=True)
                wait_s = retries.wait(error)
                reason = "a second time" if mismatches > 1 else retries.exhausted(error)
                if reason is not None and not isinstance(error, HfTransferError):
                    raise JobFailedError(self._failure(error, reason, ranges_ignored > 1)) from None
                self.step = f"waiting {wait_s:.0f} s: {error}"
                if session.cancelled.wait(wait_s):
                    raise CancelledError from None

    def _failure(self, error: RetryableError, reason: str, no_ranges: bool) -> str:
        remedy = "run deploy.py again later, it continues where it stopped"
        if no_ranges:
            remedy += f"; or delete {self.part} on the box to download the whole file in one piece"
        return f"{self.file.repo}: {self.name}: {error} ({reason}): {remedy}"

    def _attempt(self, session: Session, mismatches: int, ranges_ignored: int) -> None:
        """Fetch what is missing, and check the whole file.

        :raises RetryableError: when bytes are missing or wrong
        """
        found = None
        if self.present < self.size:
            self.step = f"downloading {self.name}"
            # Ranges that are ignored twice are no accident: then the whole file with one request.
            whole = ranges_ignored > 1 and self._may_start_over(session)
            found = self._transfer(session, whole=whole, retried=bool(mismatches or ranges_ignored))
        if found == self.file.sha256:
            print(f"{self.name}: hashed during the download", flush=True)
            return
        # A sha256 made during the download only counts if it is the locked one.
        self.step = f"verifying {self.name}"
        found = sha256_of(self.part, session.raise_if_cancelled)
        if found != self.file.sha256:
            self.part.unlink()
            raise MismatchError(
                f"{self.name} arrived with sha256 {found[:12]}..., locked {self.file.sha256[:12]}...: discarded"
            )

    def _may_start_over(self, session: Session) -> bool:
        """Whether so little is there that it may be fetched twice. A CDN may ignore Range for a while."""
        return bool(self.present <= max(session.job.refetch_bytes, self.size // 20))

    def _transfer(self, session: Session, *, whole: bool, retried: bool) -> str | None:
        """Fetch the missing parts once; returns the sha256 of the file, None if a byte may have been written twice."""
        job, url = session.job, session.hub.locate(self.file)
        headers = session.hub.headers_for(url)
        if whole:
            self.part.unlink(missing_ok=True)
        self.part.touch(0o600)
        missing = self._missing()
        kept = self.size - length(missing)
        if kept:
            print(f"{self.name}: continues, {kept / 1024**2:.0f} MiB are there already", flush=True)

        def progress(received: int) -> None:
            self.present = min(self.size, kept + received)

        transfer = Transfer(
            url, headers, job.proxy, str(self.part), self.size, session.connections(), job.chunk, job.patience_s
        )
        # hf_transfer cannot resume, and would take a token along to another port or scheme of the same host.
        by_hf_transfer = (
            session.use_hf_transfer
            and not (retried or kept or self._hf_transfer_tried)
            and self.size > job.chunk
            and "Authorization" not in headers
        )
        with closing(IncrementalSha256(self.part, lag=job.chunk)) as hasher:
            if not by_hf_transfer:
                RangeDownload(transfer, missing, session.limit, whole=whole).run(session.cancelled, progress)
            elif not self._by_hf_transfer(session, transfer, progress):
                return None
            self.step = f"verifying {self.name}"
            return hasher.finish(session.raise_if_cancelled)

    def _by_hf_transfer(self, session: Session, transfer: Transfer, progress: Callable[[int], None]) -> bool:
        """Whether hf_transfer wrote each byte once.

        :raises RetryableError: when bytes are missing
        """
        self._hf_transfer_tried = True
        try:
            written_once = hf_transfer(transfer, session.lock, session.cancelled, progress)
        except HfTransferStalledError:
            session.use_hf_transfer = False
            raise
        # Only here: RangeDownload knows what it wrote, and what looks missing then is a run of zeros that ZFS with
        # compression keeps as a hole.
        if self._missing():
            raise HfTransferError("hf_transfer ended before every byte was there")
        return written_once

    def _missing(self) -> list[tuple[int, int]]:
        """``(start, end)`` of what has still to be fetched, in bytes."""
        try:
            descriptor = os.open(self.part, os.O_RDONLY)
        except FileNotFoundError:
            return [(0, self.size)]
        try:
            return gaps(descriptor, self.size)
        finally:
            os.close(descriptor)

    def _bytes_present(self) -> int:
        return self.size - length(self._missing())
