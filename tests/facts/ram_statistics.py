"""What the boxes of linuxhw/DMI tell of RAM: `python -m tests.facts.ram_statistics CLONE` (see check_all_ram_dumps.py).

Prints, of desktops, servers and mini PCs:

- the table of `checks/ram_stock_numbers.py`: stock numbers that name no speed, with the speed at which their boxes run;
- of each processor in `checks/memory_limits.py`: boxes, those that exceed its limit, and those that reach it;
- by generation of DDR: warnings with a remedy (enable a profile), and those of them on boxes whose kind (chipset and
  family of processor, at least 20 boxes) never runs faster: the machine cannot follow the remedy.

The holdout set is left out, so that it stays unseen.
"""

from __future__ import annotations

import json
import re
import sys
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from llamarig.checks.memory_limits import memory_limit
from llamarig.checks.ram_part_numbers import is_stock_number
from llamarig.checks.ram_speed import Verdict, effective_speed, judge
from llamarig.facts.ram import Ram, parse

from tests.facts.check_all_ram_dumps import dumps

KINDS = ("Desktop", "Server", "Mini PC")
STANDARD = {3: (1066, 1333, 1600, 1866), 4: (2133, 2400, 2666, 2933, 3200), 5: (4800, 5200, 5600, 6400)}
HOLDOUT = Path(__file__).parent / "data/dmidecode-holdout/index.json"
RECORD = re.compile(r"^Handle 0x[0-9A-Fa-f]+, DMI type (?:2|4|16|17),.*(?:\n.+)*", re.MULTILINE)

Part = tuple[int, str]
"""Generation of DDR, and part number."""


@dataclass(frozen=True)
class Dump:
    """One box: path in the repository, its RAM, and the speed that it runs at in MT/s (0: not reported)."""

    path: str
    ram: Ram
    mts: int

    @property
    def generation(self) -> int | None:
        return self.ram.modules[0].generation

    @property
    def parts(self) -> set[Part]:
        return {(m.generation or 0, m.part_number.strip().upper()[:22]) for m in self.ram.modules}


def boxes(repository: Path) -> Iterator[Dump]:
    """Boxes with modules whose speed is reported, without those of the holdout set."""
    held = {item["path"] for item in json.loads(HOLDOUT.read_text())}
    for path, raw in dumps(repository, KINDS):
        text = "\n".join(found[0] for found in RECORD.finditer(raw.decode(errors="replace")))
        ram = parse(text.splitlines())
        running = [mts for module in ram.modules if (mts := effective_speed(module))]
        if path not in held and running:
            yield Dump(path, ram, min(running))


def _rated(counted: Counter[int]) -> int:
    """The highest speed that a third of at least eight boxes reach; 0 if there is none."""
    reached = 0
    for mts in sorted(counted, reverse=True):
        reached += counted[mts]
        if counted.total() >= 8 and reached >= max(3, counted.total() / 3):
            return mts
    return 0


def stock_numbers(found: Iterable[Dump]) -> dict[str, int]:
    """First eleven characters of a stock number -> standard speed in MT/s."""
    speeds: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for box in found:
        for generation, part in box.parts:
            if is_stock_number(part) and part.startswith("99"):
                near = (mts for mts in STANDARD.get(generation, ()) if abs(mts - box.mts) <= mts / 100)
                speeds[part[:11]][next(near, 0)] += 1
    return {part: mts for part, counted in sorted(speeds.items()) if (mts := _rated(counted))}


def print_limits(found: Iterable[Dump]) -> None:
    counts: defaultdict[tuple[str, int, int], list[int]] = defaultdict(lambda: [0, 0, 0])
    for box in found:
        limit = memory_limit(box.ram.processor, box.ram.board, box.generation)
        if limit is not None:
            row = counts[re.sub(r"\d(?=\d{0,2}\w*$)", "x", limit.processor), box.generation or 0, limit.mts]
            row[0] += 1
            row[1] += box.mts > limit.mts * 1.03
            row[2] += box.mts >= limit.mts * 0.97
    total = [sum(row[at] for row in counts.values()) for at in range(3)]
    print(f"{total[0]} boxes with a limit, {total[1]} above it, {total[2]} at it")
    for (name, generation, mts), (boxes_of, above, reached) in sorted(counts.items()):
        if boxes_of >= 10:
            print(f"  DDR{generation} {mts} {name:22} {boxes_of:6} boxes, {above:3} above, {reached:6} at it")


def platform(box: Dump) -> str:
    """Chipset in a board's name and family of the processor: boxes that can run alike."""
    chipset = re.search(r"(?<![A-Z])[ABHQXZ]\d{2,3}(?!\d)", box.ram.board)
    processor = re.search(r"i\d-\d{1,2}(?=\d{3})|Ryzen \w+ \d|E[35]-\d.*?v\d|FX|A\d+|G\d", box.ram.processor)
    return f"{chipset[0] if chipset else box.ram.board} {processor[0] if processor else box.ram.processor}"


def print_warnings(found: list[Dump]) -> None:
    reached: defaultdict[tuple[str, int | None], Counter[int]] = defaultdict(Counter)
    for box in found:
        reached[platform(box), box.generation][box.mts] += 1
    counts: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0])
    for box in found:
        speed = judge(box.ram)
        if speed.verdict is Verdict.BELOW and not speed.limit:
            alike = reached[platform(box), box.generation]
            faster = sum(count for mts, count in alike.items() if mts > box.mts * 1.03)
            counts[box.generation or 0][0] += 1
            counts[box.generation or 0][1] += alike.total() >= 20 and faster <= alike.total() / 100
    for generation, (warnings, hopeless) in sorted(counts.items()):
        print(f"DDR{generation}: {warnings} warnings with a remedy, {hopeless} of them where no box is faster")


def main(repository: Path) -> int:
    found = list(boxes(repository))
    numbers: defaultdict[int, list[str]] = defaultdict(list)
    for part, mts in stock_numbers(found).items():
        numbers[mts].append(part)
    for mts, parts in sorted(numbers.items()):
        print(f'    {mts}: """', *textwrap.wrap(" ".join(parts), 112), '"""', sep="\n    ")
    print_limits(found)
    print_warnings(found)
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1])))
