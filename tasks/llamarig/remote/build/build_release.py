"""Builds one llama.cpp release on the box: source at the pinned commit, CMake, Ninja, then a directory of its own.

Runs on the box as a transient systemd unit, so that it outlives the connection that started it. After an interruption
it resumes: a complete source tree is kept, and Ninja knows which objects are up to date.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from llamarig.remote.build import binary_needs, fatbin
from llamarig.remote.build.archive_commit import check_commit
from llamarig.remote.build.release_files import put_in_place
from llamarig.remote.build.source_archive import download
from llamarig.remote.build.source_tree import build_number, definitions_for, known_architectures
from llamarig.remote.build.web_pages import compile_pages
from llamarig.remote.download.verified_files import sha256_of
from llamarig.remote.shared.durable import replace_file
from llamarig.remote.shared.job_status import JobFailedError, Progress, StoppedError, own_unit, run_job
from llamarig.remote.shared.jobs import BuildJob, Source

BYTES_PER_COMPILER = 2 * 1024**3
"""A CUDA compiler process of llama.cpp's larger kernels takes about this much memory."""


def build(job: BuildJob, progress: Progress) -> str:
    """Build and install a release; returns the closing line."""
    started = time.monotonic()
    work, release = Path(job.work), Path(job.release)
    source, objects = work / "source", work / "build"
    work.mkdir(parents=True, exist_ok=True)
    remark = fetch_source(job.source, source, Path(job.cache), progress, job.pip)
    job = replace(job, cmake=definitions_for(source, numbered(job.cmake, work)))
    configure(source, objects, job, progress)
    compile_pages(source, objects, job.cmake, progress)
    compile_first_object(objects, job, progress)
    _compile_targets(objects, job, progress)
    install(objects, release, job, progress, seconds=time.monotonic() - started)
    return "; ".join(filter(None, (f"built {release.name} in {time.monotonic() - started:.0f} s", remark)))


# --- source ---------------------------------------------------------------------------------------------------------


def fetch_source(source: Source, target: Path, cache: Path, progress: Progress, pip: str = "") -> str:
    """Fetch the source tree of the pinned commit into ``target``, unless it is there.

    :param pip: a Python that has pip, for an archive of a package
    :returns: a remark for the owner, or an empty text
    """
    marker, remark = target.parent / "source.commit", ""
    if target.is_dir() and marker.exists() and marker.read_text() == source.commit:
        return remark
    shutil.rmtree(target, ignore_errors=True)
    number = 0
    progress.step(f"fetching llama.cpp {source.commit[:12]}")
    if source.kind == "git":
        _fetch_commit(source.url or "", source.commit, target)
        number = build_number(source.url or "", source.commit)
    else:
        archive = download(source, cache, progress, pip)
        remark = check_commit(source, archive)
        unpack(archive, source.subdirectory or "", target)
    if not (target / "CMakeLists.txt").exists():
        raise JobFailedError(
            f"{source.url or source.package} holds no llama.cpp source (no CMakeLists.txt): check the declared source"
        )
    (target.parent / "source.number").write_text(str(number))
    # The tree is on the disk before the marker says that it is whole: a power cut in between must not leave both.
    os.sync()
    replace_file(marker, source.commit)
    return remark


def numbered(cmake: dict[str, str], work: Path) -> dict[str, str]:
    """The definitions with the build number that was determined when the source was fetched."""
    found = work / "source.number"
    return {**cmake, "LLAMA_BUILD_NUMBER": found.read_text()} if found.exists() else cmake


def _fetch_commit(url: str, commit: str, target: Path) -> None:
    target.mkdir(parents=True)
    run(["git", "-C", str(target), "init", "--quiet"], "git init")
    fetched = subprocess.run(
        ["git", "-C", str(target), "fetch", "--quiet", "--depth=1", url, commit],
        capture_output=True,
        text=True,
        env={**os.environ, "GIT_TERMINAL_PROMPT": "0"},
    )
    if fetched.returncode:
        raise JobFailedError(
            f"commit {commit} could not be fetched from {url}: check that it exists there and that this box "
            "reaches that host",
            fetched.stderr.splitlines(),
        )
    run(["git", "-C", str(target), "checkout", "--quiet", "--force", "--detach", commit], "git checkout")


def unpack(archive: Path, subdirectory: str, target: Path) -> None:
    """Unpack ``<top>/<subdirectory>`` of the archive as ``target``."""
    part = target.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    with tarfile.open(archive) as tar:
        members = tar.getmembers()
        prefix = f"{members[0].name.split('/')[0]}/{subdirectory.strip('/')}/"
        inside = [member for member in members if member.name.startswith(prefix)]
        for member in inside:
            member.name = member.name[len(prefix) :]
        # Python releases without extraction filters ignore this attribute.
        tar.extraction_filter = getattr(tarfile, "data_filter", None)
        tar.extractall(part, members=inside)
    part.replace(target)


# --- compile --------------------------------------------------------------------------------------------------------


def configure(source: Path, objects: Path, job: BuildJob, progress: Progress) -> None:
    """Run CMake, which does little where nothing changed."""
    progress.step("configuring")
    definitions = [f"-D{name}={value}" for name, value in job.cmake.items()]
    run(
        ["cmake", "-S", str(source), "-B", str(objects), "-G", "Ninja", *definitions],
        "CMake",
        env=compiler_environment(job),
    )


def compiler_environment(job: BuildJob) -> dict[str, str]:
    """Environment in which ccache shares object files among the directories of all releases."""
    return {
        **os.environ,
        "CCACHE_DIR": f"{job.cache}/ccache",
        "CCACHE_BASEDIR": job.work,
        "CCACHE_NOHASHDIR": "1",
        "CCACHE_MAXSIZE": "10G",
        "NINJA_STATUS": "[%f/%t] ",
        "LC_ALL": "C.UTF-8",
    }


def _compiler_count() -> int:
    """Parallel compilers, min(cores, memory / 2 GiB): an unbounded -j exhausts the memory (llama.cpp #13375)."""
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(cores, memory // BYTES_PER_COMPILER))


def compile_first_object(objects: Path, job: BuildJob, progress: Progress) -> None:
    """Compile one CUDA object before all others: a toolkit that does not fit the box fails in seconds.

    :raises JobFailedError: if the toolkit does not compile it with this box's C++ compiler and C library
    """
    if job.backend != "cuda":
        return
    name = first_object(run(["ninja", "-C", str(objects), "-t", "targets", "all"], "ninja"))
    if name is None:
        return
    progress.step("compiling the first CUDA object")
    command = ["ninja", "-C", str(objects), name]
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=compiler_environment(job),
    )
    if done.returncode:
        print(done.stdout)
        compiler = run([_cached(objects, "CMAKE_CXX_COMPILER"), "--version"], "the compiler").splitlines()[0]
        raise JobFailedError(
            f"CUDA {toolkit(job.cmake)['version']} does not compile {Path(name).name} with {compiler}: declare another "
            "cuda_toolkit, or another commit if its source is at fault; the compiler's complete output is in "
            f"`journalctl -u {own_unit()}` on the box",
            [line for line in done.stdout.splitlines() if "error" in line.lower()][:12],
        )


def first_object(targets: str) -> str | None:
    """The CUDA object to compile first, from the output of ``ninja -t targets all``; None if there is none.

    acc.cu takes the fewest seconds (7 for two architectures) and includes the headers that all others include.
    """
    names = sorted(line.partition(":")[0] for line in targets.splitlines() if ".cu.o:" in line)
    return next((name for name in names if name.endswith("/acc.cu.o")), names[0] if names else None)


def _compile_targets(objects: Path, job: BuildJob, progress: Progress) -> None:
    command = ["cmake", "--build", str(objects), "--parallel", str(_compiler_count()), "--target", *job.targets]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=compiler_environment(job),
    )
    assert process.stdout is not None
    last, failing = "", list[str]()
    for line in process.stdout:
        if match := re.match(r"\[(\d+)/(\d+)\]", line):
            progress.step("compiling", done=int(match[1]), total=int(match[2]), unit="objects")
        if line.startswith("FAILED:") or failing:
            failing.append(line.rstrip())
        print(line, end="", flush=True)
        last = line
    if process.wait():
        raise compiler_failure(job.source.commit, failing, last)


def compiler_failure(commit: str, failing: Sequence[str], last: str) -> BaseException:
    """What a build raises that ended with an error.

    :param failing: the compiler's output from the first failure on
    :param last: the last line of all output: ninja ends with an error, too, where the box is shut down
    """
    if not failing and "interrupted by user" in last:
        return StoppedError("stopped before it was finished")
    # Without the failing command, which is long and is in the journal.
    shown = [line for line in failing if "error" in line.lower() or line.startswith("FAILED:")]
    return JobFailedError(
        f"llama.cpp {commit[:12]} did not compile: declare another commit or another cmake "
        f"setting; the compiler's complete output is in `journalctl -u {own_unit()}` on the box",
        list(shown or failing)[:12],
    )


# --- install --------------------------------------------------------------------------------------------------------


def install(objects: Path, release: Path, job: BuildJob, progress: Progress, *, seconds: float) -> None:
    """Copy binaries and libraries into a new directory, run them there, write the manifest, and rename the directory.

    :raises JobFailedError: when the server does not start, or lacks code for a wanted GPU
    """
    progress.step("installing")
    part = release.with_name(release.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    binaries = part / "bin"
    binaries.mkdir(parents=True)
    for path in sorted((objects / "bin").iterdir()):
        if path.name in job.targets or re.search(r"\.so(\.|$)", path.name):
            shutil.copy2(path, binaries / path.name, follow_symlinks=False)
    help_text = run([str(binaries / "llama-server"), "--help"], "llama-server --help")
    version = run([str(binaries / "llama-server"), "--version"], "llama-server --version")
    files = {
        path.name: {"size": path.stat().st_size, "sha256": sha256_of(path)}
        for path in sorted(binaries.iterdir())
        if not path.is_symlink()
    }
    architectures = _check_architectures(binaries, job.cmake)
    manifest = {
        "commit": job.source.commit,
        "build_number": int(job.cmake["LLAMA_BUILD_NUMBER"]),
        "source": job.source.to_json(),
        "backend": job.backend,
        "toolkit": toolkit(job.cmake),
        "cmake": job.cmake,
        "compiler": run([_cached(objects, "CMAKE_CXX_COMPILER"), "--version"], "the compiler").splitlines()[0],
        "version": next((line for line in version.splitlines() if line.startswith("version")), version.strip()),
        "architectures": architectures,
        "needs": binary_needs.needs(objects, binaries),
        "flags": sorted(flags_of(help_text)),
        "features": features(binaries / "llama-server"),
        "models": known_architectures(Path(job.work) / "source"),
        "files": files,
        "build_seconds": round(seconds, 1),
        "built_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    (part / "manifest.json").write_text(json.dumps(manifest, indent=1))
    put_in_place(part, release)


def _cached(objects: Path, name: str) -> str:
    found = re.search(rf"^{name}:\w+=(.*)$", (objects / "CMakeCache.txt").read_text(), re.MULTILINE)
    if found is None:
        raise JobFailedError(f"CMake's cache has no {name}: remove {objects} and deploy again")
    return found[1]


def toolkit(definitions: dict[str, str]) -> dict[str, str]:
    """Root of the CUDA toolkit and the version nvcc reports; empty for a build without CUDA."""
    if "CUDAToolkit_ROOT" not in definitions:
        return {}
    output = run([definitions["CMAKE_CUDA_COMPILER"], "--version"], "nvcc --version")
    version = re.search(r"release [\d.]+, V([\d.]+)", output)
    return {"root": definitions["CUDAToolkit_ROOT"], "version": version[1] if version else output.splitlines()[-1]}


def features(server: Path) -> list[str]:
    """Features the server was compiled with and this processor supports: ``CPU : AVX2 = 1``, ``CUDA : ARCHS = 890``.

    It logs them before it loads a model, so it is started with a file that does not exist.
    """
    with tempfile.TemporaryDirectory() as scratch:
        # A socket, so that it occupies no port of the box.
        arguments = ["--model", f"{scratch}/none.gguf", "--host", f"{scratch}/api.sock", "--log-verbosity", "5"]
        done = subprocess.run([str(server), *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)
    return features_of(done.stdout.decode(errors="replace"))


def features_of(output: str) -> list[str]:
    """Parts of llama.cpp's ``system_info:`` line, each with its backend, without the thread counts."""
    line = re.search(r"system_info:(.*)", output)
    found, backend = [], ""
    for part in line[1].split("|")[1:] if line else []:
        head, colon, rest = part.strip().rpartition(" : ")
        backend = head if colon else backend
        if rest:
            found.append(f"{backend} : {rest}" if backend else rest)
    return found


def _check_architectures(binaries: Path, definitions: dict[str, str]) -> list[str]:
    """Refuse a library without code for a requested GPU, which would silently run code made for another one."""
    library = binaries / "libggml-cuda.so"
    if "CMAKE_CUDA_ARCHITECTURES" not in definitions:
        return []
    found = fatbin.architectures(library.resolve()) if library.exists() else []
    wanted = [re.sub(r"[af](?=-|$)", "", name) for name in definitions["CMAKE_CUDA_ARCHITECTURES"].split(";")]
    missing = [name for name in wanted if not any(architecture.startswith(name) for architecture in found)]
    if missing:
        raise JobFailedError(
            f"the CUDA library holds code for {', '.join(found) or 'no GPU'}, not for {', '.join(missing)}"
        )
    return found


_FLAG = r"-{1,2}[A-Za-z][\w.-]*"


def flags_of(help_text: str) -> set[str]:
    """Flags in a ``--help`` text, without those listed as removed.

    An option starts in the first column with its spellings, separated by commas.
    """
    flags: set[str] = set()
    for option in re.split(r"\n(?=-)", help_text):
        head = re.match(rf"{_FLAG}(,\s+{_FLAG})*", option)
        if head and "argument has been removed" not in option:
            flags.update(re.findall(_FLAG, head[0]))
    return flags


def run(command: list[str], what: str, env: dict[str, str] | None = None) -> str:
    """Run a command; returns its output (both streams).

    :raises JobFailedError: with the last lines of output
    """
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=env
    )
    if done.returncode:
        print(done.stdout)
        raise JobFailedError(f"{what} failed: {shlex.join(command[:4])} ...", done.stdout.splitlines()[-15:])
    return done.stdout


if __name__ == "__main__":
    run_job(BuildJob, build)
