"""Parse every dmidecode dump of linuxhw/DMI and check its RAM: `python -m tests.facts.check_all_ram_dumps CLONE`.

CLONE is the git directory of a clone of https://github.com/linuxhw/DMI (`git clone --bare`; 2.9 GB of text, no work
tree is needed). Not part of the test run: it takes minutes, and the dumps are too large for this repository. Prints
verdicts by kind of computer, and every exception with its dump; exits with 1 where there was one.
"""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from llamarig.checks.box import Box
from llamarig.checks.memory import MemoryBandwidth, MemoryChannels, MemorySpeed
from llamarig.checks.ram_speed import judge
from llamarig.declare.rig import Rig
from llamarig.facts.ram import MemoryModules

CHECKS = (MemorySpeed(), MemoryChannels(), MemoryBandwidth())


def dumps(repository: Path, kinds: tuple[str, ...] = ()) -> Iterator[tuple[str, bytes]]:
    """Path and content of every dump: files named by twelve hexadecimal digits.

    :param kinds: of computers, as the repository's directories name them; all if empty
    """
    git = ["git", "-C", str(repository)]
    listed = subprocess.run([*git, "ls-tree", "-rz", "HEAD"], stdout=subprocess.PIPE, check=True).stdout
    paths: dict[bytes, list[str]] = {}
    for entry in filter(None, listed.split(b"\0")):
        about, path = entry.split(b"\t", 1)
        if re.search(rb"/[0-9A-F]{12}$", path) and (not kinds or path.decode().startswith(kinds)):
            paths.setdefault(about.split()[2], []).append(path.decode())
    # In the order of the pack, which takes a tenth of the time of that of the paths.
    command = [*git, "cat-file", "--batch-all-objects", "--unordered", "--batch", "--buffer"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        while header := process.stdout.readline().split():
            content = process.stdout.read(int(header[2]))
            process.stdout.read(1)
            for name in paths.get(header[0], ()):
                yield name, content


def rigs() -> tuple[Rig, Rig]:
    """A rig without and one with a declared RAM speed."""
    declared = importlib.import_module("group_data.rtx4070").rig
    plain = Rig.model_validate({**declared, "host": {**declared["host"], "memory_mts": None}})
    return plain, Rig.model_validate({**declared, "host": {**declared["host"], "memory_mts": 6000}})


def findings(text: str, of: tuple[Rig, Rig]) -> tuple[str, Iterator[str]]:
    """Verdict on one dump, and ids of the checks that find something where no speed is declared."""
    ram = MemoryModules().process(text.splitlines())
    box = Box(ram=ram, copy_gb_s=40.0)
    found = [[finding for check in CHECKS for finding in check.look(rig, box)] for rig in of]
    verdict = "no modules" if not ram.modules else judge(ram).verdict.value
    return verdict, (finding.check for finding in found[0])


def main(repository: Path) -> int:
    of = rigs()
    verdicts: Counter[tuple[str, str]] = Counter()
    found: Counter[str] = Counter()
    raised: list[str] = []
    started = time.monotonic()
    for path, raw in dumps(repository):
        try:
            verdict, checks = findings(raw.decode(errors="replace"), of)
            verdicts[path.partition("/")[0], verdict] += 1
            found.update(checks)
        except Exception:  # finding any exception is the purpose
            raised.append(f"{path}\n{traceback.format_exc()}")
    print(f"{verdicts.total()} dumps read in {time.monotonic() - started:.0f} s, {len(raised)} raised")
    for (kind, verdict), count in sorted(verdicts.items()):
        print(f"{kind:16} {verdict:10} {count:6}")
    for check, count in sorted(found.items()):
        print(f"{check:27} {count:6} findings")
    print(*raised, sep="\n")
    return 1 if raised or not verdicts else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1])))
