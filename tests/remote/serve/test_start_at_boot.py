"""What starts at boot is on the disk before a switch is committed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from llamarig.remote.serve import model_units
from llamarig.remote.serve.model_units import set_start_at_boot

UNIT = "llamarig-a.service"


def test_a_link_is_on_the_disk_once_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd does not sync it: on file systems other than ext4, a power cut could lose it after the commit."""
    links = tmp_path / "multi-user.target.wants"
    link = links / UNIT
    # Stands in for systemctl, as far as it makes and removes the link.
    program = tmp_path / "bin/systemctl"
    program.parent.mkdir()
    does = f"case $1 in enable) mkdir -p {links} && touch {link};; disable) rm {link};; esac"
    program.write_text(f"#!/bin/sh\n{does}\n")
    program.chmod(0o755)
    calls: list[str] = []
    fsync = os.fsync

    def logged(descriptor: int) -> None:
        calls.append(f"{Path(f'/proc/self/fd/{descriptor}').readlink()} {'with' if link.exists() else 'without'}")
        fsync(descriptor)

    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.setattr(model_units, "UNITS", tmp_path)
    monkeypatch.setattr(os, "fsync", logged)
    assert set_start_at_boot(UNIT, True) == ""
    assert set_start_at_boot(UNIT, False) == ""
    assert calls == [f"{links} with", f"{links} without"]
    # Where a unit is not wanted by anything yet, there is nothing to sync.
    link.touch()
    monkeypatch.setattr(model_units, "UNITS", tmp_path / "none")
    assert set_start_at_boot(UNIT, False) == ""
