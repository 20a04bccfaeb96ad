"""One message for everything the Hub refuses, with the remedy for each kind of refusal.

Runs on the box under its own Python (3.9 or newer), standard library only.
"""

from __future__ import annotations

from typing import NamedTuple


class Refusal(NamedTuple):
    """A refused repository; ``code`` and ``message`` are the Hub's X-Error-Code and X-Error-Message."""

    repo: str
    status: int
    code: str = ""
    message: str = ""
    with_token: bool = False


def refused(endpoint: str, refusals: list[Refusal]) -> str:
    """The message for all refusals.

    Kinds as in huggingface_hub 2.4, hf_raise_for_status.
    """
    repositories, remedies = [], []
    for kind, remedy in _REMEDIES.items():
        of_kind = sorted({refusal for refusal in refusals if _kind(refusal) == kind})
        if not of_kind:
            continue
        repositories += [f"{refusal.repo} ({_response(refusal, kind)})" for refusal in of_kind]
        pages = ", ".join(sorted({f"{endpoint}/{refusal.repo}" for refusal in of_kind}))
        remedies.append(remedy.format(pages=pages))
    return f"the Hub refuses {'; '.join(repositories)}: {'; '.join(remedies)}"


_REMEDIES = {
    "gated": "accept the terms on {pages} with your account, and name a token of that account with read permission for "
    "gated repositories as hub.token_env or hub.token_command",
    "token": "the token is not valid there (expired, revoked or of another Hub): make a new one with read permission, "
    "and name it as hub.token_env or hub.token_command",
    "hidden": "nothing is visible at {pages} with this access (deleted, renamed, made private, or access lost): look it"
    " up, and name a token of an account that may read it as hub.token_env or hub.token_command, or declare another "
    "repository",
    "forbidden": "the token of hub.token_env or hub.token_command needs read permission for {pages}",
}


def _kind(refusal: Refusal) -> str:
    if refusal.code == "RepoNotFound":
        return "hidden"
    if refusal.code == "GatedRepo" or not refusal.with_token:
        return "gated"
    return "token" if refusal.status == 401 else "forbidden"


def _response(refusal: Refusal, kind: str) -> str:
    # The Hub's message for a gated repository is a paragraph that repeats the remedy.
    message = f", '{refusal.message}'" if refusal.message and kind != "gated" else ""
    return f"HTTP {refusal.status}{message}"


def printable(text: str) -> str:
    """A server's text, cut to 150 printable characters on one line."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:150]
