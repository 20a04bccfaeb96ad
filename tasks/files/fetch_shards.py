"""Fetches model files on the box: the lock says what they must be, hf_transfer moves the bytes, sha256 decides.

Runs on the box as a transient systemd unit, in the venv of tasks/files/hub-requirements.txt. Each file grows under a
partial name as a sparse file, so what is there survives any kill; it gets its own name only after its sha256 matched
the lock's, and what is recorded beside it then makes later runs a matter of `stat`.
"""

from __future__ import annotations

import concurrent.futures
import errno
import fcntl
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.files.byte_mover import Mover, shared_rate
from tasks.files.growing_digest import CHUNKS, GrowingDigest, wrote_once
from tasks.files.hub_client import Hub, RefusedError, TryAgainError, read_token
from tasks.files.hub_refusals import refused
from tasks.files.job_status import JobFailedError, Progress, run_job
from tasks.files.move_bytes import hf_transfer_name
from tasks.files.patience import Patience
from tasks.files.sparse_file import GRAIN, extents, gaps, length
from tasks.files.verified_files import arrive, digest, is_recorded, record_path

_PROGRESS = 1024**2
"""Bytes that make an attempt worth while; a download that gets on is never given up."""


class StoppedError(Exception):
    """The job ends because of another file."""


class Download:
    """One file on its way: where it is, how much of it is there, and what is being waited for."""

    def __init__(self, file: dict[str, Any]) -> None:
        self.file = file
        self.target, self.part = Path(file["target"]), Path(file["partial"])
        self.size: int = file["size"]
        self.present = 0
        self.doing = "waiting for its turn"
        self.arrived = False
        self.hf_transfer_tried = False
        self.growing: GrowingDigest | None = None
        """Of the attempt under way, or the one that just ended."""
        self.twins: list[Download] = []
        """The same bytes under other names."""


class Fetch:
    """All files of one job, several at a time within one budget of connections, memory and bandwidth."""

    def __init__(self, job: dict[str, Any], progress: Progress) -> None:
        self.job, self.progress = job, progress
        self.hub = Hub(job["endpoint"], read_token(), job["proxy"])
        self.downloads = [Download(file) for file in job["files"]]
        self.missing: list[Download] = []
        self.stop = threading.Event()
        # A line too slow for hf_transfer's chunks is as slow for the next file.
        self.ranges_only = bool(job["bytes_per_s"])
        self.tokens: int | None = None

    def run(self) -> str:
        """Fetch what is not there; returns the closing line."""
        store = Path(self.job["files"][0]["partial"]).parent
        store.mkdir(parents=True, exist_ok=True)
        with only_fetcher(store) as lock, shared_rate(self.job["bytes_per_s"]) as tokens:
            self.lock, self.tokens = lock, tokens
            missing = self._missing()
            self._ask_before_the_first_byte(missing)
            self.missing = missing
            count = max(1, min(self.job["files_at_a_time"], len(missing)))
            with concurrent.futures.ThreadPoolExecutor(count) as pool:
                self._watch([pool.submit(self._fetch, download) for download in missing])
        total = sum(download.size for download in self.downloads)
        return f"{len(self.downloads)} files, {total / 1024**3:.2f} GiB, every sha256 as locked"

    def _missing(self) -> list[Download]:
        """What has to be fetched. The same bytes under several names are fetched once and linked."""
        same: dict[str, list[Download]] = {}
        for download in self.downloads:
            same.setdefault(str(download.part), []).append(download)
        missing = []
        for twins in same.values():
            there = [download for download in twins if self._is_there(download) or self._is_linked(download)]
            first = (there or twins)[0]
            first.twins = [download for download in twins if download is not first and not download.arrived]
            if there:
                self._link_twins(first)
            else:
                missing.append(first)
        return missing

    def _is_linked(self, download: Download) -> bool:
        """Whether the store had these bytes under another name, checked there: then they have this one too now."""
        for path in map(Path, download.file.get("same", ())):
            if is_recorded(path, download.file):
                download.part.unlink(missing_ok=True)
                os.link(path, download.part)
                self._arrive(download, download.part)
                return True
        return False

    def _link_twins(self, download: Download) -> None:
        for twin in download.twins:
            twin.part.unlink(missing_ok=True)
            os.link(download.target, twin.part)
            self._arrive(twin, twin.part)

    def _arrive(self, download: Download, part: Path) -> None:
        arrive(part, download.target, download.file["sha256"], self.job["group"])
        download.present, download.arrived = download.size, True

    def _is_there(self, download: Download) -> bool:
        """Whether the file has arrived; one whose record is missing or stale is read once more before it is fetched."""
        if not is_recorded(download.target, download.file):
            if not download.target.exists():
                return False
            self._say(f"verifying {download.target.name}")
            if download.target.stat().st_size != download.size or digest(download.target) != download.file["sha256"]:
                print(f"{download.target.name} is not the locked file: removed, to be fetched anew", flush=True)
                record_path(download.target).unlink(missing_ok=True)
                download.target.unlink()
                return False
            self._arrive(download, download.target)
        download.present, download.arrived = download.size, True
        return True

    def _ask_before_the_first_byte(self, missing: list[Download]) -> None:
        """Every refusal at once, and at the beginning: not after an hour of other files. Not while the Hub is away."""
        self._say("asking the Hub")
        refusals = []
        for download in missing:
            try:
                self.hub.locate(download.file)
            except TryAgainError:
                break  # an answer may take 30 s to stay away, for each of 46 shards; their own attempts come later
            except RefusedError as error:
                refusals.append(error.refusal)
        if refusals:
            raise JobFailedError(refused(self.hub.endpoint, refusals))

    def _watch(self, futures: list[concurrent.futures.Future[None]]) -> None:
        """Tell how far it is until all have arrived; the first failure stops the others, which lose nothing by it."""
        waiting = set(futures)
        while waiting:
            done, waiting = concurrent.futures.wait(
                waiting, timeout=0.5, return_when=concurrent.futures.FIRST_EXCEPTION
            )
            if any(future.exception() for future in done):
                self.stop.set()
            self._say()
        failures = [error for future in futures if (error := future.exception()) is not None]
        for error in sorted(failures, key=lambda error: isinstance(error, StoppedError)):
            raise error

    def _say(self, step: str = "") -> None:
        total = sum(download.size for download in self.downloads)
        done = sum(min(download.present, download.size) for download in self.downloads)
        if not step:
            doing = {download.doing for download in self.downloads if not download.arrived}
            active = sorted(doing - {"waiting for its turn"}, key=lambda text: not text.startswith("downloading"))
            step = active[0] if active else "downloading"
        self.progress.step(step, done=done, total=total, unit="bytes")

    def _fetch(self, download: Download) -> None:
        """One file, until its sha256 is right."""
        name, mismatches, no_ranges = download.target.name, 0, 0
        patience = Patience(self.job["give_up_after_s"], self.job["backoff_s"])
        while True:
            download.present = before = present(download)
            way = "ranges" if no_ranges or mismatches else ""
            if no_ranges > 1 and self._may_start_over(download):
                # Twice is no accident: then in one piece from the front, as such a server offers it.
                way = "stream"
            if download.growing is not None:
                download.growing.close()
                download.growing = None
            try:
                if before < download.size:
                    download.doing = f"downloading {name}"
                    self._move(download, way)
                download.doing = f"verifying {name}"
                if (found := self._digest(download)) == download.file["sha256"]:
                    hf_transfer_name(download.part).unlink(missing_ok=True)
                    self._arrive(download, download.part)
                    self._link_twins(download)
                    return
                download.part.unlink()
                mismatches += 1
                raise TryAgainError(
                    f"{name} arrived with sha256 {found[:12]}..., locked {download.file['sha256'][:12]}...: "
                    "what came is thrown away"
                )
            except TryAgainError as error:
                download.present = present(download)
                if download.present - before >= min(_PROGRESS, download.size):
                    patience.restart()
                    no_ranges = 0
                no_ranges += isinstance(error, NoRangesError)
                print(f"{name}: {error}; {download.present} of {download.size} bytes are there", flush=True)
                wait = patience.wait(error)
                tried = "a second time" if mismatches > 1 else patience.spent(error)
                if tried is not None and not isinstance(error, AnotherWayError):
                    remedy = "run deploy.py again later, it goes on where it was"
                    if no_ranges > 1:
                        remedy += f"; or delete {download.part} on the box, and all of it comes in one piece"
                    raise JobFailedError(f"{download.file['repo']}: {name}: {error} ({tried}): {remedy}") from None
                download.doing = f"waiting {wait:.0f} s: {error}"
                if self.stop.wait(wait):
                    raise StoppedError from None

    def connections(self) -> int:
        """What a mover that starts now may open: an equal share with the files that are open as long as it is.

        That number never grows, so those that started earlier have no more, and together they keep the budget.
        """
        unfinished = sum(not download.arrived for download in self.missing)
        open_ones = max(1, min(self.job["files_at_a_time"], unfinished))
        return max(1, int(self.job["connections"] // open_ones))

    def _may_start_over(self, download: Download) -> bool:
        """Whether what is there is little enough to be fetched twice. A CDN may forget Range for a while."""
        return bool(download.present <= max(self.job["refetch_bytes"], download.size // 20))

    def _move(self, download: Download, way: str) -> None:
        """Fetch what is missing of the file, once through."""
        url = self.hub.locate(download.file)
        hf_transfer_name(download.part).unlink(missing_ok=True)
        if way == "stream":
            download.part.unlink(missing_ok=True)
        descriptor = os.open(download.part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            missing = gaps(descriptor, download.size)
            fresh = length(missing) == download.size and download.size > self.job["chunk"]
            if not fresh and length(missing) < download.size:
                kept = (download.size - length(missing)) / 1024**2
                print(f"{download.target.name}: goes on, {kept:.0f} MiB are there already", flush=True)
            headers = self.hub.headers_for(url)
            # hf_transfer takes a token along to another port or scheme of the same host.
            unfit = self.ranges_only or download.hf_transfer_tried or "Authorization" in headers
            way = way or ("hf_transfer" if fresh and not unfit else "ranges")
            order = {
                "way": way,
                "url": url,
                "headers": headers,
                "proxy": self.job["proxy"],
                "path": str(download.part),
                "size": download.size,
                "gaps": missing,
                "connections": 1 if way == "stream" else self.connections(),
                "chunk": self.job["chunk"],
                "patience_s": self.job["patience_s"],
                "tokens": self.tokens,
            }
            if way != "stream" and download.size >= CHUNKS * self.job["chunk"] > 0:
                download.growing = GrowingDigest(download.part, self.job["chunk"])
            mover = Mover(order, self.lock)
            download.hf_transfer_tried |= way == "hf_transfer"
            try:
                self._watch_one(mover, way, descriptor, download)
            finally:
                mover.kill()
            if mover.code == -signal.SIGXFSZ:
                # hf_transfer has an answer in memory before it writes it: one that is longer than its limit there ends
                # it with nothing written. So only a file smaller than that is lost here.
                download.part.unlink()
                raise NoRangesError("the server sends more than the range it is asked for")
            written = self._judge(mover, way)
            if download.growing is not None and written is not None:
                download.growing.vouched = wrote_once(written, length(missing), self.job["chunk"])
            # The other ways see every byte they were told to write; what looks like a gap then is a run of zeros, which
            # ZFS with compression keeps as a hole. The sha256 knows.
            if way == "hf_transfer" and gaps(descriptor, download.size):
                raise AnotherWayError("it ended before every byte was there")
        finally:
            os.close(descriptor)

    def _watch_one(self, mover: Mover, way: str, descriptor: int, download: Download) -> None:
        since, seen, more, before = time.monotonic(), 0, False, download.present
        while not mover.ended(within_s=0 if more else 0.05):
            if self.stop.is_set():
                raise StoppedError
            # Asking the file itself waits for its writers, so only where the kernel does not count for a process.
            written = mover.written
            there = length(extents(descriptor, download.size)) if written is None else before + written
            download.present = min(download.size, there)
            if download.growing is not None:
                more = download.growing.follow(within_s=0.1)
            # What a process writes is a little more than its file: only a chunk is a sign of life.
            if download.present // GRAIN != seen:
                since, seen = time.monotonic(), download.present // GRAIN
            # The other ways watch themselves; hf_transfer waits for ever.
            if way == "hf_transfer" and time.monotonic() - since > self.job["patience_s"]:
                self.ranges_only = True
                raise AnotherWayError(f"no chunk came within {self.job['patience_s']} s")

    def _judge(self, mover: Mover, way: str) -> int | None:
        """What the end of a mover means for this file. After a good one, the bytes that it wrote, if it knows."""
        said = mover.said()
        if mover.code == 0:
            return said.get("written")
        ended = f"signal {-mover.code}" if mover.code < 0 else f"status {mover.code}"
        why = said.get("why") or f"the download ended with {ended}"
        if said.get("errno"):
            raise JobFailedError(
                f"{why} on {self.job['files'][0]['partial'].rpartition('/')[0]}: nothing that came is lost"
            )
        if said.get("no_ranges"):
            raise NoRangesError(why)
        if way == "hf_transfer":
            raise AnotherWayError(why)
        # An expired URL is signed anew.
        raise TryAgainError(why, said.get("after_s"), outage=said.get("outage", False))

    def _digest(self, download: Download) -> str:
        """Of the whole file. One made on the way is believed when it is the locked one, and never to the contrary."""

        def told(done: int) -> None:
            if self.stop.is_set():
                raise StoppedError

        if download.growing is not None and download.growing.vouched:
            found = download.growing.finish(told)
            if found == download.file["sha256"]:
                print(f"{download.target.name}: hashed while it came", flush=True)
                return found
        return digest(download.part, told)


class NoRangesError(TryAgainError):
    """The server sends something else than the range it is asked for."""

    def __init__(self, message: str) -> None:
        super().__init__(message, outage=True)


class AnotherWayError(TryAgainError):
    """hf_transfer could not: what is missing comes by Range requests, at once."""

    def __init__(self, message: str) -> None:
        super().__init__(message, after_s=0)


def present(download: Download) -> int:
    """Bytes of the partial file that are there."""
    try:
        descriptor = os.open(download.part, os.O_RDONLY)
    except FileNotFoundError:
        return 0
    try:
        return length(extents(descriptor, download.size))
    finally:
        os.close(descriptor)


@contextmanager
def only_fetcher(store: Path) -> Iterator[int]:
    """The store's lock, held by this process and by every mover it starts, so that an orphan still holds it."""
    descriptor = os.open(store / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        for left in reversed(range(20)):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not left:
                    raise JobFailedError(f"another download is at work in {store}: wait for it, or stop it") from None
                time.sleep(0.5)
        yield descriptor
    finally:
        os.close(descriptor)


def fetch(job: dict[str, Any], progress: Progress) -> str:
    """Fetch every file of the job that is not there yet; returns the closing line."""
    try:
        return Fetch(job, progress).run()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        # A file may be whole and its record not: it is read again then, not fetched.
        raise JobFailedError(f"{error.strerror} on {error.filename or 'the box'}: nothing that came is lost") from None


if __name__ == "__main__":
    run_job(fetch)
