"""Finds secrets in declarations, which are kept in git, shown in messages, and written into files that all may read."""

from __future__ import annotations

import re
from collections.abc import Mapping

_NAME = re.compile(r"(?i)(^|_)(tokens?|secrets?|passw(or)?d|passphrase|credentials?|apikey|key)$")
"""Names of variables whose value is probably a secret: HF_TOKEN, OPENAI_API_KEY; not TOKENIZERS_PARALLELISM."""
# Beginnings that services give their tokens so that they are found: Hugging Face, OpenAI, GitHub, GitLab, Slack, AWS,
# JSON web tokens, and private keys.
_TOKEN = re.compile(
    r"\b(hf_\w{8,}|sk-[\w-]{8,}|gh[opsur]_\w{8,}|github_pat_\w{8,}|glpat-[\w-]{8,}|xox[abprs]-[\w-]{8,}|AKIA[0-9A-Z]{12,}"
    r"|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*)|-----BEGIN [A-Z ]*PRIVATE KEY"
)
# As long as those that are given out, since names of repositories and files begin so, too.
_WHOLE_TOKEN = re.compile(
    r"\b(hf_\w{30,}|sk-[\w-]{30,}|gh[opsur]_\w{30,}|github_pat_\w{30,}|glpat-[\w-]{20,}|xox[abprs]-[\w-]{20,}"
    r"|AKIA[0-9A-Z]{16}|eyJ[\w-]{20,}\.[\w-]{20,}\.[\w-]*)|-----BEGIN [A-Z ]*PRIVATE KEY"
)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"]+")
_JSON_PAIR = re.compile(r"\"([^\"]+)\"\s*:\s*\"([^\"]*)\"")
_LOGIN = re.compile(r"(?i)\b[a-z][a-z0-9+.-]*://[^/\s'\"]*@")
_QUERY_NAME = re.compile(r"(?i)(token|secret|passw|signature|credential|auth|^sig$|^key|key$)")

# What may not be shown of a value: API keys among arguments, tokens, logins and queries of URLs.
_HIDDEN = re.compile(
    r"(--api-key(?:=|'?, '))[^'\"]+|\b(hf_|sk-|gh[opsur]_|github_pat_|glpat-|xox[abprs]-|AKIA|eyJ)[\w.-]+"
    r"|(://)[^/'\"]+(?=@)|(://[^\s'\"?]+\?)[^'\"]+"
)
_NOT_SHOWN = "(not shown)"


def url_secret(url: str) -> str | None:
    """Return what of a URL is secret, "a login" or "a token"; None where it has neither.

    The user of ssh, as in ssh://git@host, is none.
    """
    login = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)@", url)
    if login is not None and (":" in login[2] or login[1].lower() != "ssh"):
        return "a login"
    names = re.findall(r"[?&]([^=&#]+)=", url)
    return "a token" if any(map(_QUERY_NAME.search, names)) else None


def is_secret(name: str, value: str) -> bool:
    """Whether a variable's name or value looks like that of a secret. A path of a file is none."""
    if _TOKEN.search(value) or _LOGIN.search(value):
        return True
    return bool(_NAME.search(name)) and not value.startswith("/") and value != ""


def text_is_secret(text: str) -> bool:
    """Whether a text contains a token, the login of a URL, or JSON with a value whose name is that of a secret."""
    return is_secret("", text) or any(is_secret(name, value) for name, value in _JSON_PAIR.findall(text))


def secret_in(value: object) -> str | None:
    """Return what the texts of a value hold, "a token" or "a login"; None where they hold neither.

    :param value: a text, or a list or mapping of such values; anything else holds none
    """
    if isinstance(value, Mapping):
        return next(filter(None, map(secret_in, (*value.keys(), *value.values()))), None)
    if isinstance(value, (tuple, list)):
        return next(filter(None, map(secret_in, value)), None)
    if not isinstance(value, str):
        return None
    if _WHOLE_TOKEN.search(value):
        return "a token"
    return "a login" if any(url_secret(url) == "a login" for url in _URL.findall(value)) else None


def shown(field: str, value: object) -> str:
    """A declared value as a message shows it, without secrets: one may have been declared in the wrong field."""
    if _NAME.search(field.rpartition(".")[2]):
        return _NOT_SHOWN
    if isinstance(value, Mapping):
        items = (f"{name!r}: {_shown_item(str(name), item)}" for name, item in value.items())
        return _shortened(f"{{{', '.join(items)}}}")
    return _shortened(_hidden(value))


def _shown_item(name: str, item: object) -> str:
    return _NOT_SHOWN if is_secret(name, str(item)) else _hidden(item)


def _hidden(value: object) -> str:
    text = _JSON_PAIR.sub(lambda pair: f'"{pair[1]}": "..."' if is_secret(pair[1], pair[2]) else pair[0], repr(value))
    return _HIDDEN.sub(lambda found: f"{found[1] or found[2] or found[3] or found[4]}...", text)


def _shortened(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."
