"""A run that changes nothing, llamarig compared with Ansible: `python -m tests.benchmarks.converge [--hosts 1 10]`.

Needs root, makes a box of its own and throws it away. Nothing is asserted about time; it prints what it measured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from llamarig.declare.rig import Rig

from tests.benchmarks.converge.measure import (
    RunFailedError,
    Tool,
    alternately,
    converged,
    many_logins,
    table,
    timed,
)
from tests.benchmarks.converge.values import PLAYBOOK, NotConvergedError, control_machine, playbook_values, unmirrored
from tests.box import machine
from tests.box.deployment import HOST, REPOSITORY_ROOT, Deployment
from tests.box.paths import ADDRESS, Rehearsal, cache_directory

PORT = 25022
LLAMARIG, ANSIBLE = "llamarig", "Ansible"


def main() -> int:
    """Box up, converge it, verify that both tools find nothing to change, then time them."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.converge", description=__doc__.splitlines()[0])
    parser.add_argument("--hosts", type=int, nargs="+", default=[1, 10], metavar="N", help="inventory entries")
    parser.add_argument("--runs", type=int, default=5, help="counted runs of each tool")
    parser.add_argument(
        "--compile", action="store_true", help="compile all installed packages first, as pip does and uv only if asked"
    )
    parser.add_argument("--keep", action="store_true", help="leave the box up, for another go")
    options = parser.parse_args()
    box = Rehearsal(cache_directory() / "benchmark-box", PORT)
    try:
        # A short name: a control socket's path has to fit in 108 bytes (unix(7)).
        with tempfile.TemporaryDirectory(prefix="bench-") as directory:
            if options.compile:
                compile_packages(Path(directory))
            measure(converged(box, Path(directory)), Path(directory), options.hosts, options.runs)
    except (machine.BoxError, NotConvergedError, RunFailedError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        if not options.keep:
            machine.destroy(box)
    return 0


def measure(one: Deployment, directory: Path, hosts: Sequence[int], runs: int) -> None:
    """Everything between a box that has converged and a printed table.

    :param hosts: how many inventory entries, each a series of its own
    :param runs: counted runs of each tool in a series
    :raises NotConvergedError: when the box, or the playbook, is not what a no-change run can be measured with
    :raises RunFailedError: when a counted run fails
    """
    # apt's module needs python3-apt on the box, and would install it by itself in its first run.
    one.shell("command -v apt-get && apt-get -qq install --no-install-recommends python3-apt", timeout=300)
    with many_logins(one):
        _measure(one, directory, hosts, runs)


def _measure(one: Deployment, directory: Path, hosts: Sequence[int], runs: int) -> None:
    operations = unchanged_operations(one)
    values = directory / "values.json"
    values.write_text(json.dumps(playbook_values(one)))
    print(conditions(one, operations))
    rows = [
        "| entries | tool | min s | median s | max s | CPU s, median |",
        "| ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for count in hosts:
        place = directory / str(count)
        place.mkdir()
        more: list[tuple[str, dict[str, Any]]] = [(f"{HOST}-{number}", {}) for number in range(2, count + 1)]
        deployment = Deployment(one.box, place, one.rig, more_hosts=more)
        ours, theirs = llamarig(deployment), ansible(deployment, values)
        try:
            verify(deployment, theirs, count)
            before = os.getloadavg()[0]
            series = alternately([ours, theirs], runs)
            verify(deployment, theirs, count)
        finally:
            close_connections(place)
        print(f"{count} entries: load average {before:.2f} before, {os.getloadavg()[0]:.2f} after", flush=True)
        for name, seconds in series.items():
            print(f"  {name}: {' '.join(f'{wall:.2f}' for wall in seconds.wall)}", flush=True)
        rows += table(count, series, LLAMARIG, ANSIBLE)
    print("\n".join(["", *rows]), flush=True)


def unchanged_operations(deployment: Deployment) -> list[str]:
    """The operations of a run that changed nothing, each known to the playbook.

    :raises NotConvergedError: when one changed something, or the playbook has no task for it
    """
    done = subprocess.run(
        deployment.command("deploy.py", "-y", "--json"),
        cwd=REPOSITORY_ROOT,
        env=deployment.environment(),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise NotConvergedError(f"deploy.py exited with {done.returncode}: {done.stderr}")
    found = json.loads(done.stdout)["results"]["operations"]
    if changed := [operation["name"] for operation in found if operation["success"]]:
        raise NotConvergedError(f"the box had converged, and yet {changed} changed it")
    names = [operation["name"] for operation in found]
    rig = Rig.model_validate(deployment.rig)
    if behind := unmirrored(names, rig, control_machine(rig)):
        raise NotConvergedError(
            f"{PLAYBOOK.name} has no task for {', '.join(behind)}: add it, or both do not do the same"
        )
    return names


def verify(deployment: Deployment, theirs: Tool, count: int) -> None:
    """Both tools reach every entry and change nothing.

    :raises NotConvergedError: when one does
    """
    outcome = deployment.run()
    if outcome.code or outcome.changed or outcome.failed:
        raise NotConvergedError(f"llamarig does not leave the box alone: {outcome}")
    timed(theirs)
    output = theirs.log.read_text()
    recap = re.findall(r"^(\S+) +: ok=(\d+) +changed=(\d+) +unreachable=(\d+) +failed=(\d+)", output, re.MULTILINE)
    if len(recap) != count or any(
        (changed, unreachable, failed) != ("0",) * 3 for *_, changed, unreachable, failed in recap
    ):
        raise NotConvergedError(f"the playbook does not leave the box alone:\n{output}")
    print(
        f"{count} entries: llamarig {outcome.unchanged} operations without a change; "
        f"Ansible ok={recap[0][1]} changed=0 on each of {len(recap)}",
        flush=True,
    )


def llamarig(deployment: Deployment) -> Tool:
    """``pyinfra -y inventory.py deploy.py``."""
    environment = _python(deployment.environment(), deployment.directory)
    command = deployment.command("deploy.py", "-y")
    return Tool(LLAMARIG, command, environment, REPOSITORY_ROOT, deployment.directory / "llamarig.out")


def ansible(deployment: Deployment, values: Path) -> Tool:
    """``ansible-playbook -i inventory.json playbook.yml``, as fast as ansible-core goes by its own settings."""
    box, place = deployment.box, deployment.directory
    options = (
        f"-F /dev/null -o IdentitiesOnly=yes -o GlobalKnownHostsFile=/dev/null -o UserKnownHostsFile={box.known_hosts}"
    )
    names = [HOST, *(name for name, _ in deployment.more_hosts)]
    inventory = place / "inventory.json"
    inventory.write_text(
        json.dumps(
            {
                "all": {
                    "vars": {
                        "ansible_host": ADDRESS,
                        "ansible_port": box.port,
                        "ansible_user": "root",
                        "ansible_ssh_private_key_file": str(box.key),
                        "ansible_ssh_common_args": options,
                        # Named, so that no run spends time on looking for one.
                        "ansible_python_interpreter": "/usr/bin/python3",
                    },
                    # Ten boxes are ten connections; by address alone all entries would share one.
                    "hosts": {name: {"ansible_control_path": str(_socket(place, name))} for name in names},
                }
            }
        )
    )
    # Empty: all settings are below, and no user's own ones apply.
    configuration = place / "ansible.cfg"
    configuration.touch()
    ours = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    environment = _python(ours, place) | {
        "ANSIBLE_CONFIG": str(configuration),
        "ANSIBLE_HOME": str(place / "home"),
        "ANSIBLE_FORKS": "20",
        "ANSIBLE_PIPELINING": "True",
        # The default's -C compresses, which costs time on a fast network.
        "ANSIBLE_SSH_ARGS": "-o ControlMaster=auto -o ControlPersist=300s",
        "ANSIBLE_HOST_KEY_CHECKING": "True",
        "ANSIBLE_NOCOWS": "1",
    }
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    command = [program, "-i", str(inventory), "-e", f"@{values}", str(PLAYBOOK)]
    return Tool(ANSIBLE, command, environment, place, place / "ansible.out")


def close_connections(place: Path) -> None:
    """End the connections that ControlPersist keeps open."""
    for path in place.glob("*.ssh"):
        subprocess.run(
            ["ssh", "-F", "/dev/null", "-o", f"ControlPath={path}", "-O", "exit", ADDRESS], capture_output=True
        )


def conditions(deployment: Deployment, operations: Sequence[str]) -> str:
    """What the numbers depend on."""
    system = platform.freedesktop_os_release()["PRETTY_NAME"]
    on_the_box = deployment.shell('. /etc/os-release; echo "$PRETTY_NAME, $(python3 --version)"')
    return (
        f"{len(operations)} operations; pyinfra {version('pyinfra')}, ansible-core {version('ansible-core')}, "
        f"Python {platform.python_version()}; {os.cpu_count()} cores, {system}; "
        f"the box on the same machine, {on_the_box}"
    )


def compile_packages(directory: Path) -> None:
    """What ``uv sync --compile-bytecode`` does, to where both tools look."""
    packages = sysconfig.get_path("purelib")
    # Some packages bring files for other Pythons, which do not compile: no reason to stop.
    subprocess.run(
        [sys.executable, "-m", "compileall", "-q", "-j", "0", packages],
        env=_python(os.environ, directory / "any"),
        stdout=subprocess.DEVNULL,
        check=False,
    )


def _python(environment: Mapping[str, str], place: Path) -> dict[str, str]:
    """Compiled modules are kept, as after the first run of any installation, but outside this repository.

    Some containers set PYTHONDONTWRITEBYTECODE, and every start then compiles some 600 modules anew. pyinfra sets the
    same for itself once it has started, so of what deploy.py imports it never keeps anything: see ``--compile``.
    """
    kept = {name: value for name, value in environment.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"PYTHONPYCACHEPREFIX": str(place.parent / "compiled"), "LC_ALL": "C.UTF-8"}


def _socket(place: Path, name: str) -> Path:
    return place / f"{name}.ssh"


if __name__ == "__main__":
    sys.exit(main())
