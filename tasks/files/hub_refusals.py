"""What the Hub refuses, told apart by its own headers, and what to do about each kind: one message for all of it.

Runs on the box under its own Python (3.9 or newer), standard library only.
"""

from __future__ import annotations

from typing import NamedTuple


class Refusal(NamedTuple):
    """What the Hub will not give: ``code`` and ``words`` are its X-Error-Code and X-Error-Message."""

    repo: str
    status: int
    code: str = ""
    words: str = ""
    with_token: bool = False


def refused(endpoint: str, refusals: list[Refusal]) -> str:
    """The one message for everything the Hub will not give, with what to do about each kind.

    The kinds are those that huggingface_hub tells apart by the same headers (its hf_raise_for_status, 2.4).
    """
    said, remedies = [], []
    for kind, remedy in _REMEDIES.items():
        of_kind = sorted({refusal for refusal in refusals if _kind(refusal) == kind})
        if not of_kind:
            continue
        said += [f"{refusal.repo} ({_answered(refusal, kind)})" for refusal in of_kind]
        pages = ", ".join(sorted({f"{endpoint}/{refusal.repo}" for refusal in of_kind}))
        remedies.append(remedy.format(pages=pages))
    return f"the Hub refuses {'; '.join(said)}: {'; '.join(remedies)}"


_REMEDIES = {
    "gated": "accept the terms on {pages} with your account, and name a token of that account with read permission for "
    "gated repositories as hub.token_env or hub.token_command",
    "token": "the token is not valid there (expired, revoked or of another Hub): make a new one with read permission, "
    "and name it as hub.token_env or hub.token_command",
    "hidden": "there is no {pages} for whoever asks (deleted, renamed, made private, or access lost): look it up, and "
    "name a token of an account that may read it as hub.token_env or hub.token_command, or declare another repository",
    "forbidden": "the token of hub.token_env or hub.token_command needs read permission for {pages}",
}


def _kind(refusal: Refusal) -> str:
    if refusal.code == "RepoNotFound":
        return "hidden"
    if refusal.code == "GatedRepo" or not refusal.with_token:
        return "gated"
    return "token" if refusal.status == 401 else "forbidden"


def _answered(refusal: Refusal, kind: str) -> str:
    # The gated Hub's own words are a paragraph that says the same.
    words = f", '{refusal.words}'" if refusal.words and kind != "gated" else ""
    return f"HTTP {refusal.status}{words}"


def printable(words: str) -> str:
    """A server's own words, as far as they fit into one line of a message."""
    return " ".join("".join(c if c.isprintable() else " " for c in words).split())[:150]
