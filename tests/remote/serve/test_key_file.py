"""API key files are read as llama-server reads them, by our program and by the shell command of facts/key_files.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llamarig.facts.key_files import KeyFile, KeyFiles
from llamarig.remote.serve import key_file
from llamarig.remote.serve.key_file import KeyFileError, first_key

KEY = "sesame-0123456789abcdef"
UNUSABLE = {
    "empty": (b"", key_file.EMPTY),
    "comments alone": (b"# mine\n#yours\n\n", key_file.NO_KEY),
    "line ends alone": (b"\n\n", key_file.NO_KEY),
    "a byte order mark": (b"\xef\xbb\xbf" + KEY.encode() + b"\n", key_file.BOM),
    "a byte order mark before a comment": (b"\xef\xbb\xbf# mine\n" + KEY.encode(), key_file.BOM),
    "Windows line endings": (KEY.encode() + b"\r\n", key_file.CR),
    "one Windows line end of two": (KEY.encode() + b"\nother\r\n", key_file.CR),
    "a blank behind the key": (KEY.encode() + b" \n", key_file.NO_KEY),
    "blanks alone": (b"   \n\t\n", key_file.NO_KEY),
    "a blank before the comment": (b" # mine\n", key_file.NO_KEY),
    "binary": (b"\0\1\2" * 9, key_file.NO_KEY),
    "something else by mistake": (b"k" * (key_file.LARGEST + 1), key_file.TOO_LARGE),
}
USABLE = {
    "one": (f"{KEY}\n".encode(), KEY),
    "without a line end": (KEY.encode(), KEY),
    "behind comments": (f"# mine\n\n{KEY}\nother\n".encode(), KEY),
    "with a blank inside": (b"open sesame\n", "open sesame"),
    "behind a line that no client can send": (f"x\ty\n{KEY}\n".encode(), KEY),
    "with a # inside": (b"a#b\n", "a#b"),
    # A character a byte, as http.client sends it.
    "beyond ASCII": ("schlüssel\n".encode(), "schlüssel".encode().decode("latin-1")),
    "a line separator that only Python knows": (b"one\x85two\n", "one\x85two"),
}


def key_file_of(directory: Path, content: bytes, mode: int = 0o600) -> Path:
    file = directory / "key"
    file.write_bytes(content)
    file.chmod(mode)
    return file


def found(*paths: Path) -> dict[str, KeyFile]:
    """Read the fact on this machine; assert that its output contains no part of a key."""
    done = subprocess.run(["sh", "-c", KeyFiles().command([str(path) for path in paths])], capture_output=True)
    assert b"sesame" not in done.stdout + done.stderr
    return KeyFiles().process(done.stdout.decode().splitlines())


@pytest.mark.parametrize(("content", "problem"), UNUSABLE.values(), ids=UNUSABLE)
def test_a_file_without_a_usable_key_is_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    file = key_file_of(tmp_path, content)
    with pytest.raises(KeyFileError) as refused:
        first_key(str(file))
    assert str(refused.value) == f"api_key_file {file} {problem}"
    assert found(file)[str(file)].problem == problem


@pytest.mark.parametrize(("content", "key"), USABLE.values(), ids=USABLE)
def test_the_first_key_of_a_file_is_returned(tmp_path: Path, content: bytes, key: str) -> None:
    file = key_file_of(tmp_path, content)
    assert first_key(str(file)) == key
    assert found(file)[str(file)].problem == ""


def test_missing_paths_and_paths_that_are_not_files_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("nowhere")
    paths = [tmp_path / "none", tmp_path / "link", tmp_path, tmp_path / "fifo"]
    problems = [key_file.MISSING, key_file.MISSING, key_file.NOT_A_FILE, key_file.NOT_A_FILE]
    assert [file.problem for file in found(*paths).values()] == problems
    for path, problem in zip(paths, problems, strict=True):
        with pytest.raises(KeyFileError, match=problem):
            first_key(str(path))


def test_owner_and_mode_of_several_files_are_read_at_once(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    for path, mode in zip(paths, (0o600, 0o644), strict=True):
        path.write_text(KEY)
        path.chmod(mode)
    (tmp_path / "link").symlink_to("b")
    files = found(*paths, tmp_path / "link")
    assert [(file.owner, file.mode) for file in files.values()] == [
        (paths[0].owner(), "600"),
        (paths[1].owner(), "644"),
        (paths[1].owner(), "644"),
    ]


@pytest.mark.parametrize(("mode", "is_usable"), [(0o600, True), (0o400, True), (0o640, False), (0o602, False)])
def test_a_key_that_others_may_read_or_replace_is_not_used(tmp_path: Path, mode: int, is_usable: bool) -> None:
    file = key_file_of(tmp_path, KEY.encode(), mode)
    if is_usable:
        assert first_key(str(file)) == KEY
        return
    with pytest.raises(KeyFileError, match=key_file.OTHERS_MAY_READ):
        first_key(str(file))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_key_file_of_another_user_is_not_used(tmp_path: Path) -> None:
    file = key_file_of(tmp_path, KEY.encode())
    os.chown(file, 65534, 65534)
    with pytest.raises(KeyFileError, match=key_file.OTHER_OWNER):
        first_key(str(file))


@pytest.mark.parametrize(("content", "code"), [(KEY.encode(), 0), (b"", 1), (b"\xef\xbb\xbf" + KEY.encode(), 1)])
def test_a_unit_checks_its_key_file_before_it_starts(tmp_path: Path, content: bytes, code: int) -> None:
    """As systemd starts the program: by its path, with none of our packages to import."""
    file = key_file_of(tmp_path, content)
    done = subprocess.run(
        [sys.executable, "-I", "-B", str(key_file.__file__), str(file)], cwd="/", capture_output=True, text=True
    )
    assert done.returncode == code
    assert "sesame" not in done.stdout + done.stderr
    assert done.stderr.startswith(f"api_key_file {file} " if code else "")
    assert ("not started" in done.stderr) == bool(code)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from([b"\n", b"#", b" ", b"k", b"\r", b"\0", b"\t", b"\x7f", b"\xef\xbb\xbf", b"\x85"])))
def test_program_and_shell_agree_on_any_file(tmp_path: Path, parts: list[bytes]) -> None:
    file = tmp_path / "key"
    file.write_bytes(b"".join(parts))
    assert found(file)[str(file)].problem == (key_file.problem_of(b"".join(parts)) or "")
