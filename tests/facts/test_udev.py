"""Which udev rule has the last word on vm.swappiness, by the real command on directories laid out as on a box."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tasks.facts.machine import MachineState
from tasks.facts.udev import Rules, parsed, swappiness_rules

CACHYOS = """\
TEST!="/dev/zram0", GOTO="zram_end"

# it is "expensive": SYSCTL{vm.swappiness}="1" would be too little.
SYSCTL{vm.swappiness}="150"

LABEL="zram_end"
"""
ONE_LINE = 'ACTION=="change", KERNEL=="zram0", ATTR{initstate}=="1", SYSCTL{vm.swappiness}="150", RUN+="/bin/true"\n'
NOT_SET = '# SYSCTL{vm.swappiness}="3"\nSYSCTL{vm.swappiness}=="150", SYSCTL{vm.page-cluster}="0"\n'
OURS = 'SYSCTL{vm.swappiness}="0"\n'
USR, ETC, RUN = "usr/lib/udev/rules.d", "etc/udev/rules.d", "run/udev/rules.d"


@pytest.mark.parametrize(
    ("there", "rules"),
    [
        ({}, ()),
        ({f"{USR}/30-zram.rules": CACHYOS}, ((f"{USR}/30-zram.rules", 150),)),
        ({f"{USR}/30-zram.rules": ONE_LINE}, ((f"{USR}/30-zram.rules", 150),)),
        ({f"{USR}/30-zram.rules": NOT_SET}, ()),
        ({f"{USR}/30-zram.rules": CACHYOS, f"{ETC}/30-zram.rules": OURS}, ((f"{ETC}/30-zram.rules", 0),)),
        ({f"{USR}/30-zram.rules": CACHYOS, f"{RUN}/30-zram.rules": "# nothing\n"}, ()),
        ({f"{RUN}/30-zram.rules": CACHYOS, f"{ETC}/30-zram.rules": None}, ()),
        (
            {f"{ETC}/99-llamarig.rules": OURS, f"{USR}/30-zram.rules": CACHYOS},
            ((f"{USR}/30-zram.rules", 150), (f"{ETC}/99-llamarig.rules", 0)),
        ),
        (
            {f"{ETC}/10-mine.rules": OURS, f"{USR}/30-zram.rules": CACHYOS},
            ((f"{ETC}/10-mine.rules", 0), (f"{USR}/30-zram.rules", 150)),
        ),
        ({f"{ETC}/a.rules": 'SYSCTL{vm/swappiness} = "7"\n', f"{ETC}/b.txt": OURS}, ((f"{ETC}/a.rules", 7),)),
    ],
    ids=[
        *("none", "CachyOS's", "on one line", "compared and commented", "replaced", "hidden", "masked", "ours last"),
        *("theirs last", "other spelling"),
    ],
)
def test_the_rules_that_count_in_udevs_order(tmp_path: Path, there: dict[str, str | None], rules: Rules) -> None:
    for name, text in there.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            file.symlink_to("/dev/null")
        else:
            file.write_text(text)
    said = subprocess.run(["sh", "-c", swappiness_rules(str(tmp_path))], capture_output=True, text=True, check=True)
    assert parsed(said.stdout.splitlines()) == tuple((f"{tmp_path}/{file}", value) for file, value in rules)


def test_udev_has_the_last_word() -> None:
    said = [
        *("== at-boot", "# /etc/sysctl.d/90-llamarig.conf", "vm.swappiness = 0", "== udev"),
        '/usr/lib/udev/rules.d/30-zram.rules:SYSCTL{vm.swappiness}="150"',
    ]
    machine = MachineState().process(said)
    assert (machine.swappiness_at_boot, machine.swappiness_file) == (150, "/usr/lib/udev/rules.d/30-zram.rules")
