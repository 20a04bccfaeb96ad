"""Command line of the rehearsal box: python3 -m tests.box up|down|destroy|status|ssh [command]."""

from __future__ import annotations

import argparse
import os
import shlex
import sys

from tests.box import local_hub, machine
from tests.box.host import host_environment
from tests.box.paths import ADDRESS, Rehearsal
from tests.box.virtual_box import up_here


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m tests.box", description="A disposable Debian 13 on this machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start it; the first time, make it (30 s)")
    up.add_argument("--isolated", action="store_true", help="give it no network but loopback")
    commands.add_parser("down", help="power it off")
    commands.add_parser("destroy", help="power it off and delete it")
    commands.add_parser("status", help="say whether it is up and how to reach it (exit code 3: not up)")
    ssh = commands.add_parser("ssh", help="log in as root, or run a command there")
    ssh.add_argument("remote", nargs=argparse.REMAINDER, metavar="command")
    arguments = parser.parse_args()
    try:
        rehearsal = Rehearsal.from_environment()
        match arguments.command:
            case "up":
                if arguments.isolated:
                    machine.up(rehearsal, network="isolated")
                else:
                    up_here(rehearsal)
                print(f"Log in with: {shlex.join(machine.ssh_argv(rehearsal))}")
            case "down":
                _require_owner(rehearsal)
                machine.down(rehearsal)
                print("The box is down.")
            case "destroy":
                _require_owner(rehearsal)
                local_hub.stop(rehearsal)
                machine.destroy(rehearsal)
                print("The box is deleted.")
            case "status":
                return _status(rehearsal)
            case "ssh":
                _log_in(rehearsal, arguments.remote)
    except (machine.BoxError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    return 0


def _require_owner(rehearsal: Rehearsal) -> None:
    """Raise BoxError where the box is another user's and this one is not root."""
    directory = rehearsal.directory
    if os.geteuid() != 0 and directory.exists() and directory.stat().st_uid != os.geteuid():
        raise machine.BoxError(f"The box in {directory} is another user's. Run this as root.")


def _status(rehearsal: Rehearsal) -> int:
    _require_owner(rehearsal)
    running = machine.mode(rehearsal)
    if running is not None:
        print(f"The box is up, {running}: {ADDRESS} port {rehearsal.port}, files in {rehearsal.directory}.")
        return 0
    where = f"made, in {rehearsal.directory}" if rehearsal.root.is_dir() or rehearsal.disk.exists() else "not made yet"
    print(f"The box is down ({where}).")
    return 3  # systemctl's code for "not running"


def _log_in(rehearsal: Rehearsal, remote: list[str]) -> None:
    """Replace this process by ssh. Like ssh, join several words to one remote shell command."""
    _require_owner(rehearsal)
    if not machine.is_up(rehearsal):
        raise machine.BoxError("The box is down. Run: python3 -m tests.box up")
    argv = machine.ssh_argv(rehearsal)
    sys.stdout.flush()
    os.execvpe(argv[0], [*argv, "--", *remote] if remote else argv, host_environment())


if __name__ == "__main__":
    sys.exit(main())
