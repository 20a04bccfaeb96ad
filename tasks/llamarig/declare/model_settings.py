"""The flags of llama-server that a model's own fields take the place of: which files it is, and from where."""

from __future__ import annotations

from collections.abc import Iterator

from llamarig.declare.flags import OWNER, Flag, Setting

NAME = Setting("llamarig-NAME.service")
REPO = Setting(
    "the repository of the model lock",
    instead={
        **dict.fromkeys(
            ("-hf", "-hfr", "--hf-repo", "-mu", "--model-url", "-dr", "--docker-repo"), "repo and revision"
        ),
        **dict.fromkeys(("-hft", "--hf-token"), "hub.token_env (a command line can be read in `ps`)"),
    },
)
REVISION = Setting("the revision of the model lock", source="the Hub's default branch")
QUANT = Setting("the files of the model lock", default="files")
FILES = Flag(
    "--model -m",
    "paths",
    default="quant",
    source=OWNER,
    instead=dict.fromkeys(("-hff", "--hf-file"), "files"),
    rendered_by="file_arguments",
)
MMPROJ = Flag(
    "--mmproj -mm",
    "path",
    default="no images",
    source=OWNER,
    instead=dict.fromkeys(("-mmu", "--mmproj-url", "--mmproj-auto", "--no-mmproj", "--no-mmproj-auto"), "mmproj"),
    rendered_by="file_arguments",
)
DRAFT = Flag(
    "--model-draft -md --spec-draft-model",
    "path",
    default="no draft model",
    source=OWNER,
    instead=dict.fromkeys(("-hfd", "-hfrd", "--hf-repo-draft", "--spec-draft-hf"), "draft"),
    rendered_by="file_arguments",
)
BUILD = Setting("the release that serves")
UPGRADE_GATE = Setting("the switch to another release", default="the rig's")


def file_flags() -> Iterator[tuple[str, str]]:
    """Each flag that names a model's files, and what to declare in its place."""
    for field, setting in (("repo", REPO), ("files", FILES), ("mmproj", MMPROJ), ("draft", DRAFT)):
        yield from ((spelling, setting.instead.get(spelling, field)) for spelling in setting.spellings)
