"""References to a model file, by its own path or its real path, in units, drop-ins and preset files."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from llamarig.checks.leftovers import CannotDeleteError, chosen, leftovers
from llamarig.facts import references
from llamarig.facts.references import OpenPaths, References
from llamarig.render import layout

from tests.checks.stored_files import LOCKED, RIG, stored

MODEL = "o/x/" + "e" * 40 + "/a model-00001-of-00002.gguf"


def test_units_drop_ins_and_presets_that_name_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("etc/systemd", "local/systemd", "presets", "proofs")
    units, local, presets, proofs = (tmp_path / name for name in names)
    real, store = tmp_path / "a disk (2+)/models", tmp_path / "models"
    for directory in (
        units / "system/mine.service.d",
        units / "system/multi-user.target.wants",
        local,
        presets,
        proofs,
        real,
    ):
        directory.mkdir(parents=True)
    store.symlink_to(real)
    monkeypatch.setattr(references, "UNIT_FILES", (str(units), str(local), str(tmp_path / "not there")))
    monkeypatch.setattr(layout, "PRESETS", str(presets))
    monkeypatch.setattr(layout, "PROOFS", str(proofs))
    monkeypatch.setattr(layout, "MODELS", str(store))
    (units / "system/mine.service.d/model.conf").write_text(
        f'[Service]\nEnvironment="LLAMA_ARG_MODEL={store}/{MODEL}"\n'
    )
    (tmp_path / "linked").write_text(f"[Service]\nExecStart=/usr/bin/llama-server \\\n  -m '{real}/{MODEL}' --port 1\n")
    (units / "system/linked.service").symlink_to(tmp_path / "linked")
    (units / "system/multi-user.target.wants/linked.service").symlink_to("../linked.service")
    (units / "system/masked.service").symlink_to("/dev/null")
    os.mkfifo(units / "system/pipe")
    (units / "system/old.service").write_text(
        f"[Service]\n# ExecStart=/usr/bin/x {store}/{MODEL}\nExecStart=/bin/true\n"
    )
    (local / "root.service").write_text(f"[Service]\nReadOnlyPaths={store}\n")
    (presets / "cpu.ini").write_text(f"[m]\nmodel = {store}/{MODEL}\n")
    start = {"text": f"# m\nExecStart=x -m '{real}/{MODEL}'\n", "n_ctx": 4096}
    (proofs / "llamarig-m.service.previous.json").write_text(json.dumps(start))
    command = References().command([str(store), "/no/such directory"])
    # Opening the pipe would block.
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True, timeout=60)
    found = References().process(done.stdout.splitlines())
    assert found.keys() == {
        "mine.service.d/model.conf",
        "linked.service",
        f"{presets}/cpu.ini",
        f"{proofs}/llamarig-m.service.previous.json",
    }
    assert all(f"{store}/{MODEL}" in text for text in found.values())

    del found[f"{proofs}/llamarig-m.service.previous.json"]
    (leftover,) = leftovers(RIG, [LOCKED], stored(f"{store}/{MODEL}"), {}, found, {}, {}, 0, {})
    with pytest.raises(CannotDeleteError, match=r"linked\.service, mine\.service\.d/model\.conf refers to it"):
        chosen([leftover.name], [leftover])


def test_files_that_are_open_by_their_real_path_or_as_seen_in_a_sandbox(tmp_path: Path) -> None:
    """Text files stand in for /proc: no server runs in a sandbox here."""
    real, store = tmp_path / "a disk (2+)/models", tmp_path / "models"
    real.mkdir(parents=True)
    store.symlink_to(real)
    process = tmp_path / "proc/1"
    (process / "fd").mkdir(parents=True)
    (process / "fd/3").symlink_to(f"{real}/{MODEL}")
    (process / "maps").write_text(
        f"7f00-7f01 r--s 0 fe:00 9       {store}/o/second.gguf\n7f02-7f03 r--s 0 fe:00 8       {real}/o/third.gguf\n"
        f"7f04-7f05 r--s 0 fe:00 7       /srv{store}/other.gguf\n"
    )
    command = OpenPaths().command([str(store)]).replace("/proc/", f"{tmp_path}/proc/")
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True, timeout=60)
    found = OpenPaths().process(done.stdout.splitlines())
    assert found.splitlines() == sorted(f"{store}/{name}" for name in (MODEL, "o/second.gguf", "o/third.gguf"))
