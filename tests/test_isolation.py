"""The isolation plugin, tested by running pytest as a user whose home and environment hold state."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.programs import ROOT

REGRESSION = "tests/commands/test_audit_refusals.py"


@dataclass
class User:
    """A user with a home and the cache of an earlier rehearsal, who runs pytest."""

    directory: Path

    def __post_init__(self) -> None:
        self.home, self.temporary = self.directory / "home", self.directory / "tmp"
        self.cache = self.home / ".cache" / "llamarig"
        self.lock = self.cache / "rehearsal" / "models.lock.json"
        self.lock.parent.mkdir(parents=True)
        self.temporary.mkdir()
        # A rehearsal leaves a model lock with the tiny model.
        shard = {"path": "F16/Tiny-Qwen3-Next-F16.gguf", "size": 4096, "sha256": "0" * 64}
        model = {"repo": "llamarig/Tiny-Qwen3-Next-GGUF", "commit": "1" * 40, "shards": [shard]}
        self.lock.write_text(json.dumps({"models": {f"{model['repo']}@main quant=F16": model}}))

    def pytest(self, *arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        # TMPDIR outside the home: tests may open any file in the directory for temporary files.
        # Without plugins, since importing hypothesis takes longer than the run.
        state = {
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "HOME": str(self.home),
            "TMPDIR": str(self.temporary),
            **variables,
        }
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
            cwd=ROOT,
            env={**os.environ, **state},
            capture_output=True,
            text=True,
        )

    def run_module(self, source: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a test module with this source under the plugin that tests/conftest.py registers."""
        module = self.directory / "test_written.py"
        module.write_text(source)
        # Without confcutdir, pytest looks at each entry of the directories above: one may be closed to this user.
        alone = ["-c", os.devnull, f"--rootdir={self.directory}", f"--confcutdir={self.directory}"]
        return self.pytest(*alone, "-p", "tests.isolation", module, **variables)


@pytest.fixture
def user(tmp_path: Path) -> User:
    return User(tmp_path)


def test_fast_tests_ignore_the_files_of_an_earlier_rehearsal(user: User) -> None:
    """Regression: this test module read the model lock of the user's rehearsal box."""
    done = user.pytest(REGRESSION)
    assert done.returncode == 0, done.stdout + done.stderr


FINDS_NO_USER_STATE = """
import os
from pathlib import Path
from tests.box.paths import Rehearsal, cache_directory
from group_data import rehearsal

def test_it():
    text = repr([*os.environ.items(), Path.home(), Path("~/x").expanduser(), Rehearsal.from_environment(),
                 cache_directory(), rehearsal.rig])
    for word in {words!r}:
        assert word not in text, text
"""


def test_the_users_environment_and_home_are_hidden(user: User) -> None:
    users_environment = {
        "XDG_CACHE_HOME": str(user.home / "xdg-cache"),
        "XDG_CONFIG_HOME": str(user.home / "xdg-config"),
        "LLAMARIG_REHEARSAL_DIR": str(user.home / "my-box"),
        "LLAMARIG_REHEARSAL_PORT": "31999",
        "HF_TOKEN": "hf_theirs",
        "HF_HOME": str(user.home / "hub"),
        "HTTPS_PROXY": "http://proxy.theirs:3128",
        "http_proxy": "http://proxy.theirs:3128",
        "SSH_AUTH_SOCK": str(user.home / "agent"),
        "GIT_DIR": str(user.home / "git"),
    }
    words = [str(user.home), "31999", "hf_theirs", "proxy.theirs"]
    done = user.run_module(FINDS_NO_USER_STATE.replace("{words!r}", repr(words)), **users_environment)
    assert done.returncode == 0, done.stdout + done.stderr


def test_box_tests_use_the_users_cache_and_proxy(user: User) -> None:
    source = """
import os, pytest
from tests.box.paths import Rehearsal

@pytest.mark.box
def test_it(users_box):
    assert str(users_box.cache) == {cache!r}
    assert str(users_box.build_cache) == {cache!r} + "/build-cache"
    assert (users_box.port, str(users_box.directory)) == (31999, {cache!r} + "/rehearsal")
    assert os.environ["https_proxy"] == "http://proxy.theirs:3128"
    assert open({lock!r}).read()
"""
    text = source.replace("{cache!r}", repr(str(user.cache))).replace("{lock!r}", repr(str(user.lock)))
    done = user.run_module(text, https_proxy="http://proxy.theirs:3128", LLAMARIG_REHEARSAL_PORT="31999")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "statement",
    [
        "open({lock!r}).close()",
        "from pathlib import Path; Path({lock!r}).read_text()",
        "import os; os.listdir({home!r})",
        "import os; os.mkdir({home!r} + '/new')",
        "import os; os.chdir({home!r}); open('.cache/llamarig/rehearsal/models.lock.json').close()",
        "try:\n        open({home!r} + '/none')\n    except OSError:\n        pass",
    ],
)
def test_a_test_that_opens_a_file_below_the_users_home_fails(user: User, statement: str) -> None:
    statement = statement.replace("{lock!r}", repr(str(user.lock))).replace("{home!r}", repr(str(user.home)))
    done = user.run_module(f"def test_it():\n    {statement}\n\ndef test_other():\n    pass\n")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed, 1 passed" in done.stdout
    assert "below the home of the user who runs the tests" in done.stdout
    assert "test_written.py" in done.stdout, "the message must name the file that opened it"


def test_a_module_that_opens_a_file_below_the_users_home_on_import_fails_the_run(user: User) -> None:
    done = user.run_module(f"open({str(user.lock)!r}).close()\n\ndef test_it():\n    pass\n")
    assert done.returncode != 0
    assert "below the home of the user who runs the tests" in done.stdout + done.stderr


def test_a_test_that_starts_a_program_missing_from_the_scan_fails(user: User) -> None:
    source = 'import subprocess\n\ndef test_it():\n    subprocess.run(["".join(["ar", "ch"])], check=True)\n'
    done = user.run_module(source)
    assert done.returncode == 1
    assert "started the program 'arch', which tests/programs.py does not find" in done.stdout


def test_an_invalid_port_is_reported_without_a_traceback(user: User) -> None:
    done = user.pytest(REGRESSION, LLAMARIG_REHEARSAL_PORT="many")
    assert done.returncode != 0
    output = done.stdout + done.stderr
    assert "LLAMARIG_REHEARSAL_PORT must be a port number" in output
    assert "Traceback" not in output


def test_creating_a_symbolic_link_does_not_count_as_opening_its_target(user: User) -> None:
    """A relative target is relative to the link, not to the working directory, which may be below the user's home."""
    source = f"import os\ndef test(tmp_path):\n    os.chdir({str(user.home)!r})\n"
    done = user.run_module(source + "    (tmp_path / 'link').symlink_to('../elsewhere')\n")
    assert done.returncode == 0, done.stdout
    inside = user.run_module(source + "    os.symlink('/elsewhere', 'link')\n")
    assert "below the home of the user" in inside.stdout


def test_a_box_may_be_shut_down_after_a_fast_test(user: User) -> None:
    source = f"""
import pytest

@pytest.fixture(scope="session")
def box():
    yield
    open({str(user.lock)!r}).close()

@pytest.mark.box
def test_with_a_box(box):
    pass

def test_without():
    pass
"""
    done = user.run_module(source)
    assert done.returncode == 0, done.stdout + done.stderr
