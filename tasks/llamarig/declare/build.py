"""A build of llama.cpp: source, full commit, backend."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from llamarig.declare.base import Declaration, Form, Name
from llamarig.declare.kv_cache import KERNEL_TYPES
from llamarig.declare.secrets import url_secret

LLAMA_CPP_COMMIT = "0c1e57098bba43ac29e6e3b677cdceebdd22334f"
"""The pinned commit: every flag in this repository was checked against it (llama.cpp 0.5.0-dev, autumn 2026)."""

_FULL_COMMIT = re.compile(r"[0-9a-f]{40}")


def full_commit(value: str) -> str:
    """Return a commit of 40 lower-case hex digits.

    :raises ValueError: for a short commit, a tag or a branch, which can mean another source later
    """
    if _FULL_COMMIT.fullmatch(value):
        return value
    raise ValueError(
        "not a full commit: write all 40 lower-case hex digits (`git rev-parse <tag>` prints them); "
        "short commits, tags and branches can mean another source later"
    )


class GitSource(Declaration):
    """A git repository; only the pinned commit is fetched from it."""

    kind: Literal["git"] = "git"
    url: str = "https://github.com/ggml-org/llama.cpp"
    """https://, ssh:// or file:// of the repository."""
    commit: str = LLAMA_CPP_COMMIT
    """The full commit to build: 40 lower-case hex digits."""

    _full = field_validator("commit")(full_commit)

    @field_validator("url")
    @classmethod
    def _is_url(cls, value: str) -> str:
        if not re.match(r"(https|ssh|file)://\S+$", value):
            raise ValueError("not a git URL: use https://, ssh:// or file://")
        if secret := url_secret(value):
            raise ValueError(
                f"{secret} in a URL would be in command lines, in messages and in the release's manifest, which every "
                "user of the box can read: declare the URL without it, write https://USER:PASSWORD@HOST into "
                "/etc/llamarig/keys/git on the box (mode 600), and run there `git config --system credential.helper "
                "'store --file /etc/llamarig/keys/git'`"
            )
        return value


class SdistSource(Declaration):
    """A Python source distribution that vendors llama.cpp, for boxes that reach PyPI, or a mirror, but no git host.

    It is named by ``package`` and ``version``, or by its ``url``.
    """

    kind: Literal["sdist"] = "sdist"
    package: Annotated[str | None, Form("the name of a package", "llama-cpp-python")] = Field(
        default=None, pattern=r"^[A-Za-z0-9]([\w.-]*[A-Za-z0-9])?$"
    )
    """Of the index that the box's pip is configured with (/etc/pip.conf): llama-cpp-python."""
    version: Annotated[str | None, Form("a version as the index has it", "0.3.36")] = Field(
        default=None, pattern=r"^[0-9][\w.!+]*$"
    )
    """Of the package: 0.3.36."""
    url: str | None = None
    """Where the archive is downloaded from, in place of an index."""
    sha256: Annotated[str, Form("64 lower-case hex digits, as sha256sum prints them", "9f86d081...")] = Field(
        pattern=r"^[0-9a-f]{64}$"
    )
    """Of the archive, in lower-case hex digits."""
    subdirectory: str = "vendor/llama.cpp"
    """Directory of llama.cpp in the archive."""
    commit: str
    """The full commit of llama.cpp that the archive contains; compared with what the archive says of itself."""

    _full = field_validator("commit")(full_commit)

    @field_validator("url")
    @classmethod
    def _is_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if not re.match(r"(https?|file)://\S+$", value):
            raise ValueError("not the URL of an archive: use https://, http:// or file:///path on the box")
        if secret := url_secret(value):
            raise ValueError(
                f"{secret} in a URL would be in messages and in the release's manifest, which every user of the box can"
                " read: put the archive on the box and declare file:///path, or where no login is needed"
            )
        return value

    @model_validator(mode="after")
    def _is_named_once(self) -> SdistSource:
        named = (self.package is not None, self.version is not None, self.url is not None)
        if named not in ((True, True, False), (False, False, True)):
            raise ValueError("which archive? declare package and version, or its url, and not both")
        return self


Source = Annotated[GitSource | SdistSource, Field(discriminator="kind")]

_OLDEST_TOOLKIT = {
    **{88: (13, 0), 89: (11, 8), 90: (11, 8), 100: (12, 8), 101: (12, 8), 103: (12, 9), 107: (13, 4), 110: (13, 0)},
    **{120: (12, 8), 121: (12, 9)},
}
"""The first toolkit for each architecture: NVIDIA's CUDA release notes, and for CUDA 13 the wheels' own nvcc
(tests/facts/data/toolkits/gpu_codes.txt)."""
_OF_CUDA_13 = (75, 80, 86, 87, 88, 89, 90, 100, 103, 107, 110, 120, 121)
"""Architectures of CUDA 13.0 to 13.5, as far as they are old enough for it (from the same)."""
_RENAMED = {101: 110}
"""Architectures that have another number from CUDA 13.0 on: Jetson Thor (CUDA 13.0 release notes)."""

CUDA_FROM_PYPI = ("13.0", "13.1", "13.2", "13.3", "13.4", "13.5")
"""Versions with a lock in items/locks/. PyPI's wheels of CUDA 12 contain ptxas and libnvvm, but no nvcc."""

# Definitions that llamarig sets itself (render/release.py).
_OWNED_CMAKE = re.compile(
    r"CMAKE_(CUDA_ARCHITECTURES|CUDA_COMPILER|INSTALL_RPATH|BUILD_WITH_INSTALL_RPATH|BUILD_TYPE)"
    r"|CUDAToolkit_ROOT|GGML_(CUDA|VULKAN|HIP|CCACHE|CUDA_FA_QUANTS|CUDA_FA_ALL_QUANTS|CUDA_NCCL)"
    r"|LLAMA_BUILD_.*|LLAMA_USE_PREBUILT_UI|LLAMA_OPENSSL"
)


class Build(Declaration):
    """One way of building llama.cpp. A box may have several; each model names the one that serves it."""

    name: Name
    """What models name as their build."""
    source: Source = GitSource()
    """Where the source of llama.cpp comes from."""
    backend: Literal["cuda", "cpu", "vulkan", "hip"] = "cuda"
    """What it computes with: cuda for NVIDIA, vulkan or hip for AMD, cpu for no GPU."""
    architectures: tuple[str, ...] = ()
    """As CMake names them: 89-real for RTX 40xx, 120a-real for RTX 50xx, gfx1100; where left out for CUDA, those of the
    cards present."""
    cuda_toolkit: str | None = None
    """A version to install from PyPI (13.5), or the path of a toolkit on the box, the directory above bin/nvcc: /usr
    for Debian's own package."""
    tls: bool = False
    """Compile with OpenSSL, for models with a certificate (serve.tls_certificate_file)."""
    web_ui: bool = False
    """Compile the pages of the web UI in, with the distribution's Node.js; on where a model of it has web_ui=True."""
    cmake: dict[str, str] = Field(default={})
    """Further -D definitions for CMake."""
    built_by: str | None = Field(default=None, min_length=1)
    """The host, by its name in the inventory, that builds for every box that declares this build; the others get its
    release over SSH and need no compiler. Left out, every box builds for itself."""
    kv_cache_pairs: tuple[str, ...] = ()
    """Cache types to have flash attention kernels for besides those of the box's models, each as K-V: q4_1-q4_1; a
    shared build gets those of all its boxes."""

    @field_validator("architectures")
    @classmethod
    def _architectures(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for architecture in value:
            found = re.fullmatch(r"(\d{2,3})([af]?)(-real|-virtual)?|gfx[0-9a-f]{3,4}", architecture)
            if not found:
                raise ValueError(f"{architecture!r} is not an architecture: write 89-real, 120a-real or gfx1100")
            if found[2] and int(found[1]) < {"a": 90, "f": 100}[found[2]]:
                raise ValueError(
                    f"{architecture!r}: nvcc knows the suffix a from 90 on and f from 100 on: leave it out"
                )
        return value

    @field_validator("cuda_toolkit")
    @classmethod
    def _toolkit(cls, value: str | None) -> str | None:
        if value is None or value in CUDA_FROM_PYPI:
            return value
        if re.fullmatch(r"/[\w.+-][\w/.+-]*", value):
            return value.rstrip("/")
        if re.fullmatch(r"\d+\.\d+", value):
            raise ValueError(
                f"PyPI has no compiler for this version, only for {', '.join(CUDA_FROM_PYPI)}. A toolkit that you "
                "installed on the box yourself is declared by its path, for example /usr/local/cuda-12.9"
            )
        raise ValueError("write a version as 13.0, or the absolute path of an installed toolkit")

    @field_validator("kv_cache_pairs")
    @classmethod
    def _pairs(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pair in value:
            types = pair.split("-")
            if len(types) != 2 or not KERNEL_TYPES.issuperset(types):
                known = ", ".join(sorted(KERNEL_TYPES))
                raise ValueError(f"{pair!r} is not a K-V pair with kernels: write q4_1-q4_1, of {known}")
        return value

    @field_validator("cmake")
    @classmethod
    def _not_owned(cls, value: dict[str, str]) -> dict[str, str]:
        for key in value:
            if _OWNED_CMAKE.fullmatch(key):
                raise ValueError(f"{key} is set by llamarig from the other fields of the build: remove it")
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key):
                raise ValueError(f"{key!r} is not a CMake variable name")
        return value

    @model_validator(mode="after")
    def _backend_needs(self) -> Build:
        if self.backend == "cuda" and self.cuda_toolkit is None:
            raise ValueError('a cuda build needs cuda_toolkit, for example "13.5"')
        if self.backend == "hip" and not self.architectures:
            raise ValueError('a hip build needs architectures, for example ("gfx1100",) for an RX 7900')
        if self.backend in ("cpu", "vulkan") and (self.architectures or self.cuda_toolkit):
            raise ValueError(f"a {self.backend} build takes neither architectures nor cuda_toolkit; remove them")
        if refusal := self.toolkit_refusal(self.architectures):
            raise ValueError(refusal)
        return self

    @property
    def takes_architectures_of_cards(self) -> bool:
        """Whether the build compiles for the architectures of the cards that the box has."""
        return self.backend == "cuda" and not self.architectures

    def toolkit_refusal(self, architectures: Iterable[str], version: tuple[int, int] | None = None) -> str | None:
        """Return why the declared CUDA toolkit cannot compile for these architectures; None where it can.

        :param version: of a toolkit declared by path, as its nvcc reports it; None where it is not known
        """
        version = self.toolkit_version or version
        if version is None:
            return None
        name = ".".join(map(str, version))
        for architecture in architectures:
            number = int(re.sub(r"\D.*", "", architecture))
            oldest = _OLDEST_TOOLKIT.get(number, (0, 0))
            if version < oldest:
                needed = ".".join(map(str, oldest))
                return f"CUDA {name} cannot compile for {architecture}: declare {needed} or newer"
            if version >= (13, 0) and number in _RENAMED:
                return f"CUDA {name} calls {architecture} {_RENAMED[number]}: declare {_RENAMED[number]}a-real"
            if self.toolkit_version is not None and number > _OF_CUDA_13[0] and number not in _OF_CUDA_13:
                known = ", ".join(map(str, _OF_CUDA_13))
                return f"CUDA {name} knows no architecture {architecture}: it compiles for {known}"
            if version >= (13, 0) and number < _OF_CUDA_13[0]:
                return (
                    f"CUDA {name} no longer compiles for {architecture}: install a CUDA 12 toolkit on the box and "
                    "declare its path as cuda_toolkit"
                )
        return None

    @property
    def toolkit_version(self) -> tuple[int, int] | None:
        """Version of a toolkit from PyPI; None for one declared by path, and for a build without one."""
        if self.cuda_toolkit is None or self.cuda_toolkit.startswith("/"):
            return None
        major, _, minor = self.cuda_toolkit.partition(".")
        return int(major), int(minor)
