"""What a box's package manager says of the NVIDIA driver, read back.

Debian's answers are from a test box, before and after an installation by hand. There is no Arch box here: its lines
are written after pacman's manual, and say only that we read what it describes.
"""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tasks.facts.driver import NvidiaPackages
from tasks.planning.driver import DriverState

DATA = Path(__file__).parent / "data/driver"
ARCH = """\
== os
ID=cachyos
ID_LIKE=arch
== container
none
== cards
/sys/bus/pci/devices/0000:01:00.0
== packages
installed linux-cachyos-headers 6.17.8-2 arch
installed nvidia-open-dkms 590.48.01-1 arch
installed nvidia-utils 590.48.01-1 arch
== held
nvidia-utils
== offered
package nvidia-utils
version 590.48.01-1
== kernel
linux-cachyos
== changed
1763700000
1763700001
== booted
1763600000
""".splitlines()


def test_arch_as_pacmans_manual_describes_it() -> None:
    assert NvidiaPackages().process(ARCH) == DriverState(
        family="arch",
        cards=1,
        kernels=("linux-cachyos",),
        installed={
            "linux-cachyos-headers": "6.17.8-2",
            "nvidia-open-dkms": "590.48.01-1",
            "nvidia-utils": "590.48.01-1",
        },
        parts=frozenset({"nvidia-open-dkms", "nvidia-utils"}),
        held=frozenset({"nvidia-utils"}),
        offered={"nvidia-utils": "590.48.01-1"},
        packages_changed_at=1763700001,
        booted_at=1763600000,
    )


@given(st.lists(st.text() | st.sampled_from(ARCH).flatmap(lambda line: st.text().map(line.__add__))))
def test_garbage_never_raises(output: list[str]) -> None:
    assert isinstance(NvidiaPackages().process(output), DriverState)
