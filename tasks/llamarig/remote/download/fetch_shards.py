"""Fetches model files on the box, several at a time, each checked against the size and sha256 of the model lock.

A file gets its own name only after its sha256 matched; the record written beside it then makes later runs a matter of
`stat`.
"""

from __future__ import annotations

import concurrent.futures
import errno
import os
import threading
from pathlib import Path

from llamarig.remote.download.file_download import WAITING, FileDownload, Session
from llamarig.remote.download.hub_client import Hub, RefusedError, read_token, refused
from llamarig.remote.download.range_download import RateLimit
from llamarig.remote.download.store_lock import exclusive_use, refuse_links
from llamarig.remote.download.transfer import CancelledError, RetryableError
from llamarig.remote.download.verified_files import install_verified, is_verified, record_path, sha256_of
from llamarig.remote.download.wanted_architectures import check_architectures
from llamarig.remote.shared.job_status import JobFailedError, Progress, run_job
from llamarig.remote.shared.jobs import FetchJob


class Fetch:
    """All files of one job, within one budget of connections, memory and bandwidth."""

    def __init__(self, job: FetchJob, progress: Progress) -> None:
        self.job, self.progress = job, progress
        self.hub = Hub(job.endpoint, read_token(), job.proxy)
        self.downloads = [FileDownload(file) for file in job.files]
        self.missing: list[FileDownload] = []
        self.cancelled = threading.Event()

    def run(self) -> str:
        """Fetch the files that are not there; returns the closing line."""
        store = Path(self.job.files[0].partial).parent
        refuse_links(store.parent, [download.file.target for download in self.downloads])
        store.mkdir(parents=True, exist_ok=True)
        with exclusive_use(store) as lock:
            self.missing = self._find_missing()
            self._raise_refusals()
            if self.missing:
                check_architectures(self.job.wanted, self.progress)
            rate = self.job.bytes_per_s
            session = Session(
                job=self.job,
                hub=self.hub,
                lock=lock,
                limit=RateLimit(rate) if rate else None,
                cancelled=self.cancelled,
                connections=self.connections,
                use_hf_transfer=not rate,
            )
            count = max(1, min(self.job.files_at_a_time, len(self.missing)))
            with concurrent.futures.ThreadPoolExecutor(count) as pool:
                self._watch([pool.submit(self._fetch, download, session) for download in self.missing])
        total = sum(download.size for download in self.downloads)
        return f"{len(self.downloads)} files, {total / 1024**3:.2f} GiB, every sha256 as locked"

    def connections(self) -> int:
        """How many connections a file that starts now may open: an equal share of the budget.

        The number of unfinished files never grows, so earlier files have no more than this, and all together keep to
        the budget.
        """
        unfinished = sum(not download.arrived for download in self.missing)
        open_files = max(1, min(self.job.files_at_a_time, unfinished))
        return max(1, int(self.job.connections // open_files))

    def _find_missing(self) -> list[FileDownload]:
        """The files to fetch. Of several with the same bytes, one; the others become links to it."""
        by_content: dict[Path, list[FileDownload]] = {}
        for download in self.downloads:
            by_content.setdefault(download.part, []).append(download)
        missing = []
        for same in by_content.values():
            there = [download for download in same if self._is_there(download) or self._link_from_store(download)]
            if there:
                self._link_copies(there[0])
            else:
                missing.append(same[0])
        return missing

    def _is_there(self, download: FileDownload) -> bool:
        """Whether the file is in place and right; without a valid record it is hashed, and removed if wrong."""
        if not is_verified(download.target, download.file):
            if not download.target.exists():
                return False
            self._report(f"verifying {download.name}")
            size, sha256 = download.size, download.file.sha256
            if download.target.stat().st_size != size or sha256_of(download.target) != sha256:
                print(f"{download.name} is not the locked file: removed, to be fetched again", flush=True)
                record_path(download.target).unlink(missing_ok=True)
                download.target.unlink()
                return False
            self._install(download, download.target)
        self._mark_arrived(download)
        return True

    def _link_from_store(self, download: FileDownload) -> bool:
        """Whether the store had these bytes under another name, verified there; they are linked to this one."""
        for path in map(Path, download.file.same):
            if is_verified(path, download.file):
                self._link(path, download)
                return True
        return False

    def _link_copies(self, arrived: FileDownload) -> None:
        """Link an arrived file to the other files of the job that have the same bytes."""
        for download in self.downloads:
            if download.part == arrived.part and not download.arrived:
                self._link(arrived.target, download)

    def _link(self, source: Path, download: FileDownload) -> None:
        download.part.unlink(missing_ok=True)
        os.link(source, download.part)
        self._install(download, download.part)

    def _install(self, download: FileDownload, part: Path) -> None:
        install_verified(part, download.target, download.file.sha256, self.job.group)
        self._mark_arrived(download)

    def _mark_arrived(self, download: FileDownload) -> None:
        download.present, download.arrived = download.size, True

    def _raise_refusals(self) -> None:
        """Ask the Hub for every missing file before the first byte is fetched.

        :raises JobFailedError: naming everything that the Hub refuses
        """
        self._report("asking the Hub")
        refusals = []
        for download in self.missing:
            try:
                self.hub.locate(download.file)
            except RetryableError:
                break  # each answer may take 30 s to stay away; the files' own attempts ask again
            except RefusedError as error:
                refusals.append(error.refusal)
        if refusals:
            raise JobFailedError(refused(self.hub.endpoint, refusals))

    def _fetch(self, download: FileDownload, session: Session) -> None:
        download.run(session)
        self._install(download, download.part)
        self._link_copies(download)

    def _watch(self, futures: list[concurrent.futures.Future[None]]) -> None:
        """Report progress until all files have arrived. The first failure cancels the others, which keep what came."""
        waiting = set(futures)
        while waiting:
            done, waiting = concurrent.futures.wait(
                waiting, timeout=0.5, return_when=concurrent.futures.FIRST_EXCEPTION
            )
            if any(future.exception() for future in done):
                self.cancelled.set()
            self._report()
        failures = [error for future in futures if (error := future.exception()) is not None]
        for error in sorted(failures, key=lambda error: isinstance(error, CancelledError)):
            raise error

    def _report(self, step: str = "") -> None:
        total = sum(download.size for download in self.downloads)
        done = sum(download.present for download in self.downloads)
        if not step:
            steps = {download.step for download in self.downloads if not download.arrived} - {WAITING}
            active = sorted(steps, key=lambda text: not text.startswith("downloading"))
            step = active[0] if active else "downloading"
        self.progress.step(step, done=done, total=total, unit="bytes")


def fetch(job: FetchJob, progress: Progress) -> str:
    """Fetch every file of the job that is not there yet; returns the closing line."""
    try:
        return Fetch(job, progress).run()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        # A file may be complete without its record: the next run hashes it, and does not fetch it again.
        raise JobFailedError(f"{error.strerror} on {error.filename or 'the box'}: nothing that came is lost") from None


if __name__ == "__main__":
    run_job(FetchJob, fetch)
