"""A model: which files of which Hub repository at which revision, on which build, served how."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from llamarig.declare import model_settings
from llamarig.declare.base import Declaration, Form, Name
from llamarig.declare.flags import Setting
from llamarig.declare.serve import Serve
from llamarig.declare.serve.speculation import NEED_A_DRAFT
from llamarig.declare.upgrade_gate import UpgradeGate
from llamarig.declare.workload import Workload

Repo = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$"),
    Form("OWNER/NAME as on the Hub", "unsloth/Qwen3-Coder-Next-GGUF"),
]


def hub_path(value: str) -> str:
    """Return the path of a file inside its repository.

    :raises ValueError: for a path that could leave the model store (absolute, or with ``..``)
    """
    parts = value.split("/")
    if not value or any(part in ("", ".", "..") for part in parts) or not re.fullmatch(r"[\w./+@ =-]+", value):
        raise ValueError(f"{value!r} is not the path of a file in a Hub repository")
    return value


class Model(Declaration):
    """One model of a box. Its files are either a quant's shard set (``quant``) or named one by one (``files``)."""

    name: Annotated[Name, model_settings.NAME]
    """Lower-case letters, digits and dashes: it becomes part of a systemd unit's name."""
    repo: Annotated[Repo, model_settings.REPO]
    """OWNER/NAME on the Hub."""
    revision: Annotated[str, model_settings.REVISION] = "main"
    """A full commit of the Hub repository, or a branch, frozen by the model lock."""
    quant: Annotated[str | None, model_settings.QUANT] = None
    """For example UD-Q6_K_XL: the one shard set of that name."""
    files: Annotated[tuple[str, ...], model_settings.FILES] = ()
    """Paths in the repository."""
    mmproj: Annotated[str | None, model_settings.MMPROJ] = None
    """Path of the vision projector in the same repository."""
    draft: Annotated[str | None, model_settings.DRAFT] = None
    """Path of a draft model in the same repository."""
    import_from: Annotated[tuple[str, ...], Setting("the model store", "paths", default="the Hub alone")] = ()
    """Directories of the box where its files may already lie: found by size, proved by sha256, cloned or copied."""
    import_by: Annotated[Literal["copy", "move"], Setting("the model store")] = "copy"
    """Whether files found there stay, or are taken away."""
    build: Annotated[Name, model_settings.BUILD]
    """Name of a build of the box."""
    upgrade_gate: Annotated[UpgradeGate | None, model_settings.UPGRADE_GATE] = None
    """Undo its switch to a release that is slower."""
    serve: Serve
    """How it is served: address, context, placement, sampling, ..."""
    workload: Annotated[Workload | None, Setting("tasks/tune.py", default="not tuned")] = None
    """What it is tuned for."""

    @field_validator("files")
    @classmethod
    def _paths(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for path in value:
            hub_path(path)
            if not path.endswith(".gguf"):
                raise ValueError(f"{path!r} is no GGUF file")
        return value

    @field_validator("mmproj", "draft")
    @classmethod
    def _path(cls, value: str | None) -> str | None:
        return None if value is None else hub_path(value)

    @field_validator("import_from")
    @classmethod
    def _are_directories(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for path in value:
            if not re.fullmatch(r"(/[A-Za-z0-9_.@+-]+)+", path) or ".." in path.split("/"):
                raise ValueError(
                    f"{path!r}: write the absolute path of a directory on the box, in letters, digits and ./_@+-"
                )
        return value

    @field_validator("revision")
    @classmethod
    def _revision(cls, value: str) -> str:
        if not re.fullmatch(r"[\w][\w./-]*", value):
            raise ValueError("not a revision: a full commit of the Hub repository, or a branch such as main")
        return value

    @field_validator("quant")
    @classmethod
    def _quant(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[\w.-]+", value):
            raise ValueError("not the name of a quant: write it as in the file's name, for example UD-Q6_K_XL")
        return value

    @model_validator(mode="after")
    def _either_quant_or_files(self) -> Model:
        if (self.quant is None) == (not self.files):
            raise ValueError("which files? declare either quant or files, not both and not neither")
        return self

    @model_validator(mode="after")
    def _images_need_a_projector(self) -> Model:
        for field in ("image_min_tokens", "image_max_tokens"):
            if getattr(self.serve, field) is not None and self.mmproj is None:
                raise ValueError(f"serve.{field} is read only for images: declare the model's mmproj, or leave it out")
        return self

    @model_validator(mode="after")
    def _draft_and_speculation(self) -> Model:
        types = self.serve.speculation.types if self.serve.speculation else ()
        needing = [kind for kind in types if kind in NEED_A_DRAFT]
        if needing and self.draft is None:
            raise ValueError(f"speculation {needing[0]} guesses with a draft model: declare its file as draft")
        if self.draft is not None and not any(kind.startswith("draft-") for kind in types):
            raise ValueError(
                "draft would be loaded and not used: add a type, "
                'serve.speculation = speculation(types=("draft-simple",))'
            )
        return self
