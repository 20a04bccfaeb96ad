"""The Hub token, from the environment of the control machine or a command on it."""

from __future__ import annotations

import os
import shlex
import subprocess
import threading
from dataclasses import dataclass, field

from llamarig.declare.rig import Hub


class HubError(Exception):
    """A model cannot be resolved or fetched on the Hub; the message says what to do."""


@dataclass
class HubTokens:
    """Hub tokens of one run. Each token command runs once, also where several hosts need its token at once: it may ask
    to unlock a password manager."""

    _printed: dict[tuple[str, ...], str] = field(default_factory=dict)
    # A lock of gevent under pyinfra's command line, so that the greenlets of other hosts wait for the first.
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def of(self, hub: Hub) -> str | None:
        """Read the token from the environment or a command of the control machine; None if none is declared.

        :raises HubError: when one is declared and cannot be read
        """
        if command := hub.token_command:
            with self._lock:
                if command not in self._printed:
                    self._printed[command] = _printed_by(command)
                return self._printed[command]
        if hub.token_env is None:
            return None
        token = os.environ.get(hub.token_env, "").strip()
        if not token:
            raise HubError(f"hub.token_env names {hub.token_env}, which is not set here: export {hub.token_env}=hf_...")
        return token


def _printed_by(command: tuple[str, ...]) -> str:
    """The token that a command prints. No message shows its output."""
    shown = shlex.join(command)
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        why = getattr(error, "strerror", None) or "it did not end within 120 s"
        raise HubError(f"hub.token_command `{shown}` cannot be run here: {why}") from None
    if done.returncode:
        raise HubError(f"hub.token_command `{shown}` failed with exit status {done.returncode}: run it by hand")
    words = done.stdout.split()
    if len(words) != 1:
        raise HubError(f"hub.token_command `{shown}` printed {len(words)} words where a token is one")
    return words[0]
