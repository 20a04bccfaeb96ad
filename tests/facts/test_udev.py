"""udev rules that set vm.swappiness, by the real command on a directory tree like that of a box."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from llamarig.facts.machine import MachineState
from llamarig.facts.udev import Rules, parse_rules, swappiness_rules

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
    ("files", "rules"),
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
def test_effective_rules_in_order_of_application(tmp_path: Path, files: dict[str, str | None], rules: Rules) -> None:
    for name, text in files.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            file.symlink_to("/dev/null")
        else:
            file.write_text(text)
    done = subprocess.run(["sh", "-c", swappiness_rules(str(tmp_path))], capture_output=True, text=True, check=True)
    assert parse_rules(done.stdout.splitlines()) == tuple((f"{tmp_path}/{file}", value) for file, value in rules)


def test_udev_overrides_sysctl() -> None:
    output = [
        *("== at-boot", "# /etc/sysctl.d/90-llamarig.conf", "vm.swappiness = 0", "== udev"),
        '/usr/lib/udev/rules.d/30-zram.rules:SYSCTL{vm.swappiness}="150"',
    ]
    machine = MachineState().process(output)
    assert (machine.swappiness_at_boot, machine.swappiness_file) == (150, "/usr/lib/udev/rules.d/30-zram.rules")
