"""The set-up upgrades nothing, is quiet unless it fails, and installs for a rehearsal only what a rehearsal needs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.set_up import REPOSITORY, SetUpError, at_installed_versions, install_packages, upgraded_by

# `apt-get install --simulate systemd-container` on a Debian 12 whose systemd is older than the archive's.
SIMULATION = """\
Reading package lists...
The following packages will be upgraded:
  libsystemd-shared libsystemd0 systemd
Inst systemd [252.36-1~deb12u1] (252.39-1~deb12u2 Debian:12.12/oldstable [amd64]) []
Inst libsystemd-shared [252.36-1~deb12u1] (252.39-1~deb12u2 Debian:12.12/oldstable [amd64])
Inst systemd-container (252.39-1~deb12u2 Debian:12.12/oldstable [amd64])
Inst mmdebstrap (1.3.5-7 Debian:12.12/oldstable [all])
Conf systemd (252.39-1~deb12u2 Debian:12.12/oldstable [amd64])
"""
REAL_REQUIREMENTS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["dependency-groups"]


def test_upgrades_are_seen_before_they_are_made() -> None:
    assert upgraded_by(SIMULATION) == {"systemd", "libsystemd-shared"}
    assert upgraded_by("Inst mmdebstrap (1.3.5-7 Debian:12.12/oldstable [all])\n") == set()


def test_what_belongs_to_an_installed_package_is_asked_for_in_its_version() -> None:
    assert at_installed_versions(SIMULATION) == ["systemd-container=252.36-1~deb12u1"]


FAKE_APT = """\
#!/bin/sh
echo "$@" >>"$(dirname "$0")/calls"
case "$*" in
*--print-uris*) exit {dropped} ;;
*--simulate*systemd-container=252.36*) {held} ;;
*--simulate*) cat "$(dirname "$0")/simulation" ;;
*update*) echo 'Hit:1 http://deb.debian.org' ;;
*) echo '(Reading database ... 100%)'; exit {status} ;;
esac
"""


def packages_installed_with(
    directory: Path, monkeypatch: pytest.MonkeyPatch, *, held: str = "exit 100", status: int = 0, dropped: int = 0
) -> list[str]:
    """Install systemd-container where apt and dpkg are scripts; return apt's command lines."""
    programs = {"apt-get": FAKE_APT.format(held=held, status=status, dropped=dropped), "dpkg-query": "#!/bin/sh\n"}
    for name, text in programs.items():
        (directory / name).write_text(text)
        (directory / name).chmod(0o755)
    (directory / "simulation").write_text(SIMULATION)
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    install_packages(["systemd-container"])
    return (directory / "calls").read_text().splitlines()


def test_nothing_is_installed_where_it_would_upgrade_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(SetUpError, match=r"upgrade libsystemd-shared, systemd .*run as root: apt-get install"):
        packages_installed_with(tmp_path, monkeypatch, held=f"cat {tmp_path}/simulation")
    assert not [call for call in (tmp_path / "calls").read_text().splitlines() if "--yes" in call]


def test_a_package_is_installed_in_the_version_that_upgrades_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI", raising=False)
    calls = packages_installed_with(tmp_path, monkeypatch, held="echo 'Inst systemd-container (252.36-1~deb12u1 x)'")
    assert calls[-1] == "install --yes --no-install-recommends systemd-container=252.36-1~deb12u1"


def test_a_version_that_the_archive_has_dropped_is_not_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a machine that nobody may upgrade gets the reason, and one of CI is upgraded."""
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(SetUpError, match=r"upgrade libsystemd-shared, systemd .*systemd-container$"):
        packages_installed_with(tmp_path, monkeypatch, dropped=100)
    monkeypatch.setenv("CI", "true")
    calls = packages_installed_with(tmp_path, monkeypatch, dropped=100)
    assert calls[-1] == "install --yes --no-install-recommends systemd-container"


def test_a_machine_of_ci_may_be_upgraded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    calls = packages_installed_with(tmp_path, monkeypatch, held=f"cat {tmp_path}/simulation")
    assert calls[-1].startswith("install --yes ")


def test_apts_output_is_shown_only_if_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CI", "true")
    packages_installed_with(tmp_path, monkeypatch)
    assert capfd.readouterr().out == "Installing Debian packages: systemd-container\n"
    with pytest.raises(SetUpError, match=r"exit status 100:\n\(Reading database"):
        packages_installed_with(tmp_path, monkeypatch, status=100)


def test_a_rehearsal_imports_nothing_that_only_the_tests_need() -> None:
    script = (
        "import json, sys, importlib.metadata as metadata\n"
        "import tests.box.rehearse, tests.box.serve_hub, tests.box.tiny_model\n"
        "names = {name.partition('.')[0] for name in sys.modules}\n"
        "found = metadata.packages_distributions()\n"
        "print(json.dumps(sorted({one.lower() for name in names for one in found.get(name, [])})))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    imported = set(json.loads(done.stdout))

    def names(group: str) -> set[str]:
        requirements = (one for one in REAL_REQUIREMENTS[group] if isinstance(one, str))
        return {re.split(r"[<>=!~ ]", one)[0] for one in requirements}

    assert names("rehearsal") <= imported, "the group names something that a rehearsal does not import"
    assert imported & (names("dev") | names("benchmark")) == set()
