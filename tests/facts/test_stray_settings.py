"""LLAMA_ARG_ settings in configuration files and processes, found by the real command, without their values."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from llamarig.facts.stray_settings import StraySettings, settings_in_files

NAME = "LLAMA_ARG_CTX_SIZE"


def found(root: Path) -> tuple[str, ...]:
    done = subprocess.run(["sh", "-c", settings_in_files(str(root))], capture_output=True, text=True, timeout=60)
    assert "512" not in done.stdout, "a value may be a key"
    return StraySettings().process(["== environment", *done.stdout.splitlines()]).environment


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("etc/environment", f"{NAME}=512"),
        ("etc/profile.d/mine.sh", f"export PATH=$PATH:/opt {NAME}=512"),
        ("etc/systemd/system/x.service.d/a.conf", f"Environment={NAME}=512"),
        ("etc/zsh/zshenv", f"export {NAME}=512"),
        ("root/.zshrc", f"export {NAME}=512"),
        ("home/me/.zshenv", f'{NAME}="512"'),
        ("home/me/.bash_profile", f"export {NAME}=512"),
        ("root/.config/environment.d/x.conf", f"{NAME}=512"),
        ("etc/fish/config.fish", f"set -gx {NAME} 512"),
        ("etc/fish/conf.d/x.fish", f"    set --global --export {NAME} 512"),
        ("home/me/.config/fish/config.fish", f"if true; set -x {NAME} 512; end"),
        ("home/me/.config/fish/config.fish", f"set -g -x -- {NAME} 512"),
        ("root/.config/fish/fish_variables", f"SETUVAR --export {NAME}:512"),
    ],
)
def test_a_setting_is_found_in(tmp_path: Path, file: str, line: str) -> None:
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(f"# something\n{line}\n")
    assert found(tmp_path) == (f"{NAME} in {tmp_path / file}",)


@pytest.mark.parametrize("kind", ["FIFO", "link to a FIFO", "link to an endless device", "socket"])
def test_what_is_no_regular_file_is_not_read(tmp_path: Path, kind: str) -> None:
    """Reading it would never end, and any user of the box can make one."""
    home = tmp_path / "home/me"
    home.mkdir(parents=True)
    (home / ".zshrc").write_text(f"export {NAME}=512\n")
    bashrc = home / ".bashrc"
    match kind:
        case "FIFO":
            os.mkfifo(bashrc)
        case "link to a FIFO":
            os.mkfifo(home / "fifo")
            bashrc.symlink_to(home / "fifo")
        case "link to an endless device":
            bashrc.symlink_to("/dev/zero")
        case "socket":
            with socket.socket(socket.AF_UNIX) as bound:
                bound.bind(str(bashrc))
    assert found(tmp_path) == (f"{NAME} in {home}/.zshrc",)


@pytest.mark.parametrize("line", [f"# export {NAME}=512", f"set -e {NAME}", f"echo ${NAME}", f"set -l {NAME} 512"])
def test_a_line_that_sets_nothing_is_ignored(tmp_path: Path, line: str) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root/.zshrc").write_text(f"{line}\n")
    assert found(tmp_path) == ()


def test_shared_memory_of_a_running_server(tmp_path: Path) -> None:
    """CUDA's pinned buffers are shared memory. Here a program named llama-server maps some."""
    program = tmp_path / "llama-server"
    shutil.copy2(sys.executable, program)
    code = "import mmap, time; kept = mmap.mmap(-1, 48 << 20); kept.write(bytes(48 << 20)); print(1, flush=True); "
    environment = {**os.environ, "PYTHONHOME": sys.base_prefix}
    argv = [str(program), "-S", "-c", code + "time.sleep(60)"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, env=environment) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == b"1\n"
            output = subprocess.run(["sh", "-c", StraySettings().command()], capture_output=True, text=True).stdout
            found = StraySettings().process(output.splitlines())
        finally:
            server.kill()
    (mine,) = [one for one in found.servers if one.pid == server.pid]
    assert 48 << 10 <= mine.shared_kib < 64 << 10


def test_what_servers_have_logged_and_opened() -> None:
    """The first line is of a report (llama.cpp #27923), the second as tools/server/server-task.cpp formats it."""
    lines = [
        "== servers",
        *("pid=7", "unit=llamarig-a.service", "devices="),
        "no-gpu=0.00.012.345 E ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected",
        "too-large=",
        *("pid=8", "unit=llamarig-b.service", "devices=/nvidia0 /nvidia1 ", "no-gpu="),
        "too-large=7.12 W srv alloc:  - prompt state size 3462.850 MiB exceeds cache size limit 2048.000 MiB, skipping",
        "pid=9",
    ]
    first, second, hidden = StraySettings().process(lines).servers
    assert first.no_gpu == "ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected"
    assert (first.devices, first.state_mib) == ((), 0)
    assert (second.devices, second.no_gpu) == (("nvidia0", "nvidia1"), "")
    assert (second.state_mib, second.cache_mib) == (3462, 2048)
    assert (hidden.devices, hidden.no_gpu) == (None, "")
