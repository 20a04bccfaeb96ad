"""Compare a run that changes nothing by llamarig and by Ansible: `python -m tests.benchmarks.converge [--hosts 1 10]`.

Needs root; makes a box and destroys it. Prints the measured times and makes no assertion about them.
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
    """Start a box, converge it, verify that both tools find nothing to change, and time them."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.converge", description=__doc__.splitlines()[0])
    parser.add_argument("--hosts", type=int, nargs="+", default=[1, 10], metavar="N", help="inventory entries")
    parser.add_argument("--runs", type=int, default=5, help="counted runs of each tool")
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compile all installed packages first, as pip does by default and uv does not",
    )
    parser.add_argument("--keep", action="store_true", help="leave the box up, for another go")
    options = parser.parse_args()
    box = Rehearsal(cache_directory() / "benchmark-box", PORT)
    try:
        # A short path, because the path of a control socket is limited to 108 bytes (unix(7)).
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


def measure(one: Deployment, directory: Path, hosts: Sequence[int], runs: int, brief: bool = False) -> None:
    """Time both tools on a converged box and print a table.

    :param hosts: numbers of inventory entries; each is a series
    :param runs: counted runs of each tool in a series
    :param brief: to try the benchmark: no uncounted run of each tool, and no second look whether they change nothing
    :raises NotConvergedError: if one of the tools would change something
    :raises RunFailedError: if a counted run fails
    """
    # Ansible's apt module needs python3-apt and would install it in its first run.
    one.shell("command -v apt-get && apt-get -qq install --no-install-recommends python3-apt", timeout=300)
    with many_logins(one):
        _measure(one, directory, hosts, runs, brief)


def _measure(one: Deployment, directory: Path, hosts: Sequence[int], runs: int, brief: bool) -> None:
    operations = unchanged_operations(one)
    values = directory / "values.json"
    values.write_text(json.dumps(playbook_values(one)))
    print(conditions(one, operations))
    rows = [
        "| entries | tool | min s | median s | max s | CPU s, median |",
        "| ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for count in hosts:
        series_directory = directory / str(count)
        series_directory.mkdir()
        more: list[tuple[str, dict[str, Any]]] = [(f"{HOST}-{number}", {}) for number in range(2, count + 1)]
        deployment = Deployment(one.box, series_directory, one.rig, more_hosts=more)
        llamarig_run, ansible_run = llamarig(deployment), ansible(deployment, values)
        try:
            verify_no_changes(deployment, ansible_run, count)
            before = os.getloadavg()[0]
            series = alternately([llamarig_run, ansible_run], runs, uncounted=not brief)
            if not brief:
                verify_no_changes(deployment, ansible_run, count)
        finally:
            close_connections(series_directory)
        print(f"{count} entries: load average {before:.2f} before, {os.getloadavg()[0]:.2f} after", flush=True)
        for name, seconds in series.items():
            print(f"  {name}: {' '.join(f'{wall:.2f}' for wall in seconds.wall)}", flush=True)
        rows += table(count, series, LLAMARIG, ANSIBLE)
    print("\n".join(["", *rows]), flush=True)


def unchanged_operations(deployment: Deployment) -> list[str]:
    """Names of the operations of a llamarig run that changes nothing.

    :raises NotConvergedError: if an operation changed something, or the playbook has no task for it
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
        raise NotConvergedError(f"the box had converged, but these operations changed it: {changed}")
    names = [operation["name"] for operation in found]
    rig = Rig.model_validate(deployment.rig)
    if missing := unmirrored(names, rig, control_machine(rig)):
        raise NotConvergedError(
            f"{PLAYBOOK.name} has no task for {', '.join(missing)}: add it, so that both tools do the same"
        )
    return names


def verify_no_changes(deployment: Deployment, ansible_run: Tool, count: int) -> None:
    """Run both tools; they have to reach every inventory entry and change nothing.

    :raises NotConvergedError: if one of them does not
    """
    outcome = deployment.run()
    if outcome.code or outcome.changed or outcome.failed:
        raise NotConvergedError(f"llamarig failed or changed the box: {outcome}")
    timed(ansible_run)
    output = ansible_run.log.read_text()
    recap = re.findall(r"^(\S+) +: ok=(\d+) +changed=(\d+) +unreachable=(\d+) +failed=(\d+)", output, re.MULTILINE)
    if len(recap) != count or any(
        (changed, unreachable, failed) != ("0",) * 3 for *_, changed, unreachable, failed in recap
    ):
        raise NotConvergedError(f"the playbook failed or changed the box:\n{output}")
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
    """``ansible-playbook -i inventory.json playbook.yml``, with ansible-core's settings for speed."""
    box, directory = deployment.box, deployment.directory
    options = (
        f"-F /dev/null -o IdentitiesOnly=yes -o GlobalKnownHostsFile=/dev/null -o UserKnownHostsFile={box.known_hosts}"
    )
    names = [HOST, *(name for name, _ in deployment.more_hosts)]
    inventory = directory / "inventory.json"
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
                        # Set, so that no run spends time on interpreter discovery.
                        "ansible_python_interpreter": "/usr/bin/python3",
                    },
                    # One connection per entry, as with separate boxes; by default all entries would share one.
                    "hosts": {name: {"ansible_control_path": str(_socket(directory, name))} for name in names},
                }
            }
        )
    )
    # An empty file, so that the user's configuration is not read; the environment below has all settings.
    configuration = directory / "ansible.cfg"
    configuration.touch()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    environment = _python(inherited, directory) | {
        "ANSIBLE_CONFIG": str(configuration),
        "ANSIBLE_HOME": str(directory / "home"),
        "ANSIBLE_FORKS": "20",
        "ANSIBLE_PIPELINING": "True",
        # Without the default's -C: compression costs time on a fast network.
        "ANSIBLE_SSH_ARGS": "-o ControlMaster=auto -o ControlPersist=300s",
        "ANSIBLE_HOST_KEY_CHECKING": "True",
        "ANSIBLE_NOCOWS": "1",
    }
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    command = [program, "-i", str(inventory), "-e", f"@{values}", str(PLAYBOOK)]
    return Tool(ANSIBLE, command, environment, directory, directory / "ansible.out")


def close_connections(directory: Path) -> None:
    """Close the connections that ControlPersist keeps open."""
    for path in directory.glob("*.ssh"):
        subprocess.run(
            ["ssh", "-F", "/dev/null", "-o", f"ControlPath={path}", "-O", "exit", ADDRESS], capture_output=True
        )


def conditions(deployment: Deployment, operations: Sequence[str]) -> str:
    """Describe the versions and machines that the results depend on."""
    system = platform.freedesktop_os_release()["PRETTY_NAME"]
    on_the_box = deployment.shell('. /etc/os-release; echo "$PRETTY_NAME, $(python3 --version)"')
    return (
        f"{len(operations)} operations; pyinfra {version('pyinfra')}, ansible-core {version('ansible-core')}, "
        f"Python {platform.python_version()}; {os.cpu_count()} cores, {system}; "
        f"the box on the same machine, {on_the_box}"
    )


def compile_packages(directory: Path) -> None:
    """Compile the installed packages, as ``uv sync --compile-bytecode`` does, into the cache that both tools use."""
    packages = sysconfig.get_path("purelib")
    # Not checked: some packages contain files for other Python versions, which do not compile.
    subprocess.run(
        [sys.executable, "-m", "compileall", "-q", "-j", "0", packages],
        env=_python(os.environ, directory / "any"),
        stdout=subprocess.DEVNULL,
        check=False,
    )


def _python(environment: Mapping[str, str], directory: Path) -> dict[str, str]:
    """Environment in which Python caches compiled modules outside this repository.

    Some containers set PYTHONDONTWRITEBYTECODE, so that every start compiles about 600 modules again. pyinfra sets it
    for itself after its start, so modules that deploy.py imports are never cached: see ``--compile``.
    """
    kept = {name: value for name, value in environment.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"PYTHONPYCACHEPREFIX": str(directory.parent / "compiled"), "LC_ALL": "C.UTF-8"}


def _socket(directory: Path, name: str) -> Path:
    return directory / f"{name}.ssh"


if __name__ == "__main__":
    sys.exit(main())
