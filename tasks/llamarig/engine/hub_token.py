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
    """Hub tokens of one run. Each token command runs once, also where several hosts need its token."""

    _commands: dict[tuple[str, ...], _TokenCommand] = field(default_factory=dict)

    def of(self, hub: Hub) -> str | None:
        """Read the token from the environment or a command of the control machine; None if none is declared.

        :raises HubError: when one is declared and cannot be read
        """
        if hub.token_command:
            return self._commands.setdefault(hub.token_command, _TokenCommand(hub.token_command)).token()
        if hub.token_env is None:
            return None
        token = os.environ.get(hub.token_env, "").strip()
        if not token:
            raise HubError(f"hub.token_env names {hub.token_env}, which is not set here: export {hub.token_env}=hf_...")
        return token


class _TokenCommand:
    """Runs once, also where several hosts need the token at once: it may ask to unlock a password manager.

    Its output is never shown.
    """

    def __init__(self, command: tuple[str, ...]) -> None:
        self._command = command
        self._token: str | None = None
        # A lock of gevent under pyinfra's command line, so that the greenlets of other hosts wait for the first.
        self._lock = threading.Lock()

    def token(self) -> str:
        with self._lock:
            if self._token is None:
                self._token = self._run()
            return self._token

    def _run(self) -> str:
        command = self._command
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
