"""A model: which files of which Hub repository at which revision, on which build, served how."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from llamarig.declare.base import Declaration, Name
from llamarig.declare.flags import OWNER, Flag, Setting, owned_flags, rows
from llamarig.declare.risky_flags import flag_of
from llamarig.declare.serve import Serve
from llamarig.declare.serve.speculation import NEED_A_DRAFT

Repo = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")]


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

    name: Annotated[Name, Setting("llamarig-NAME.service")]
    """Lower-case letters, digits and dashes: it becomes part of a systemd unit's name."""
    repo: Annotated[
        Repo,
        Setting(
            "the repository of the model lock",
            instead={
                **dict.fromkeys(
                    ("-hf", "-hfr", "--hf-repo", "-mu", "--model-url", "-dr", "--docker-repo"), "repo and revision"
                ),
                **dict.fromkeys(("-hft", "--hf-token"), "hub.token_env (a command line can be read in `ps`)"),
            },
        ),
    ]
    """OWNER/NAME on the Hub."""
    revision: Annotated[str, Setting("the revision of the model lock", source="the Hub's default branch")] = "main"
    """A full commit of the Hub repository, or a branch, frozen by the model lock."""
    quant: Annotated[str | None, Setting("the files of the model lock", default="files")] = None
    """For example UD-Q6_K_XL: the one shard set of that name."""
    files: Annotated[
        tuple[str, ...],
        Flag(
            "--model -m",
            "paths",
            default="quant",
            source=OWNER,
            instead=dict.fromkeys(("-hff", "--hf-file"), "files"),
            rendered_by="file_arguments",
        ),
    ] = ()
    """Paths in the repository."""
    mmproj: Annotated[
        str | None,
        Flag(
            "--mmproj -mm",
            "path",
            default="no images",
            source=OWNER,
            instead=dict.fromkeys(
                ("-mmu", "--mmproj-url", "--mmproj-auto", "--no-mmproj", "--no-mmproj-auto"), "mmproj"
            ),
            rendered_by="file_arguments",
        ),
    ] = None
    """Path of the vision projector in the same repository."""
    draft: Annotated[
        str | None,
        Flag(
            "--model-draft -md --spec-draft-model",
            "path",
            default="no draft model",
            source=OWNER,
            instead=dict.fromkeys(("-hfd", "-hfrd", "--hf-repo-draft", "--spec-draft-hf"), "draft"),
            rendered_by="file_arguments",
        ),
    ] = None
    """Path of a draft model in the same repository."""
    build: Annotated[Name, Setting("the release that serves")]
    """Name of a build of the box."""
    serve: Serve
    """How it is served: address, context, placement, sampling, ..."""

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
    def _no_files_in_extra(self) -> Model:
        owned = owned_flags(rows(type(self))) if self.serve.extra else {}
        for argument in self.serve.extra:
            if (flag := flag_of(argument)) in owned:
                raise ValueError(f"serve.extra: {flag} is rendered by llamarig: declare {owned[flag]} in its place")
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
