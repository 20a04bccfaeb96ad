"""A model: which files of which Hub repository at which revision, on which build, served how."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from tasks.spec.base import Declaration, Name
from tasks.spec.serve import Serve
from tasks.spec.speculation import NEED_A_DRAFT

Repo = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")]


def hub_path(value: str) -> str:
    """A file's path inside its repository.

    :raises ValueError: for anything that could leave the model store (absolute, or with ``..``)
    """
    parts = value.split("/")
    if not value or any(part in ("", ".", "..") for part in parts) or not re.fullmatch(r"[\w./+@ =-]+", value):
        raise ValueError(f"{value!r} is no path of a file in a Hub repository")
    return value


class Model(Declaration):
    """One model of a box. Either ``quant`` or ``files`` says which files: a quant's shard set, or paths."""

    name: Name
    repo: Repo
    revision: str = Field(
        default="main",
        description="a full commit of the Hub repository, or a branch, frozen by the model lock",
    )
    quant: str | None = Field(default=None, description="for example UD-Q6_K_XL: the one shard set of that name")
    files: tuple[str, ...] = ()
    mmproj: str | None = Field(default=None, description="path of the vision projector in the same repository")
    draft: str | None = Field(default=None, description="path of a draft model in the same repository")
    build: Name
    serve: Serve

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
    def _which_files(self) -> Model:
        if (self.quant is None) == (not self.files):
            raise ValueError("say which files: either quant or files, not both and not neither")
        return self

    @model_validator(mode="after")
    def _images_need_a_projector(self) -> Model:
        for field in ("image_min_tokens", "image_max_tokens"):
            if getattr(self.serve, field) is not None and self.mmproj is None:
                raise ValueError(f"serve.{field} is read with images alone: name the model's mmproj, or leave it out")
        return self

    @model_validator(mode="after")
    def _draft_and_speculation(self) -> Model:
        types = self.serve.speculation.types if self.serve.speculation else ()
        needing = [kind for kind in types if kind in NEED_A_DRAFT]
        if needing and self.draft is None:
            raise ValueError(f"speculation {needing[0]} guesses with a draft model: name its file as draft")
        if self.draft is not None and not any(kind.startswith("draft-") for kind in types):
            raise ValueError(
                "draft is loaded and never asked without a type: add "
                'serve.speculation = speculation(types=("draft-simple",))'
            )
        return self
