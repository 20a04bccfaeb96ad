"""Whether a server that was started with an API key answers without it."""

from __future__ import annotations

from pathlib import Path

from llamarig.remote.shared.server_client import NoAnswerError, Server


def is_open(pid: str) -> bool:
    """Ask a server with an API key without the key.

    :return: True only where it answered; False also for a server without a key, one that loads, and one that has ended
    """
    try:
        if b"--api-key-file" not in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
            return False
        return Server.of_process(pid, None).succeeds("/props")
    except NoAnswerError as error:
        return error.answered  # one that is too large
    except OSError:  # it has ended
        return False
