"""Checks that a started server is the declared one and does what it is for, with its key and not without it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from llamarig.remote.serve.first_start import Answer
from llamarig.remote.serve.model_units import last_lines
from llamarig.remote.serve.proof_requests import (
    MOST_TOKENS_A_SENTENCE,
    SENTENCE,
    Request,
    is_answer,
    long_request,
    nested,
    picture_request,
    short_request,
)
from llamarig.remote.serve.switch_checks import api_key
from llamarig.remote.shared.job_status import JobFailedError, Progress
from llamarig.remote.shared.jobs import SwitchJob
from llamarig.remote.shared.server_client import NoAnswerError, Server, arguments_of

_ANSWER_WITHIN_S = 600


def check_answers(job: SwitchJob, pid: str, progress: Progress) -> Answer:
    """Ask the server a short and a long prompt, and where it has a vision projector, one with a picture.

    :raises JobFailedError: naming what it does not do as declared
    :raises OSError: where it does not answer as a llama-server does
    """
    unit, arguments = job.unit, arguments_of(pid)
    short = short_request(arguments)
    if job.api_key_file:
        progress.step("checking a request without the API key")
        _check_refusal_without_key(Server.of_process(pid, None), unit, short)
    server = Server.of_process(pid, api_key(job))
    properties = server.get("/props")
    build = str(properties.get("build_info", ""))
    commit = re.search(r"[0-9a-f]{7,40}$", build)
    if commit is None or not job.commit.startswith(commit[0]):
        raise JobFailedError(f"{unit} reports build {build!r}, declared {job.commit}", last_lines(unit))
    context = nested(properties, "default_generation_settings", "n_ctx")
    if not isinstance(context, int):
        raise JobFailedError(f"{unit} does not report its context: {json.dumps(properties)[:200]}", last_lines(unit))
    if context < job.context_per_slot:
        raise JobFailedError(
            f"{unit} serves a context of {context} tokens per slot, declared {job.context_per_slot}: the model may be "
            "trained for less (then declare yarn_scale), or memory does not allow it",
            last_lines(unit),
        )
    # A projector may be for sound alone.
    sees = "--mmproj" in arguments and nested(properties, "modalities", "vision") is not False
    # Without pages it answers 404; with them 415 to a client that takes no gzip, as this one (server-http.cpp).
    if job.web_ui and server.status("/") == 404:
        raise JobFailedError(f"{unit} has no web UI at /, and web_ui=True is declared: its build has no pages")
    tokens_per_second = 0.0
    long = long_request(arguments, job.context_per_slot, _tokens_a_sentence(server))
    for request in (short, long, picture_request() if sees else None):
        if request is not None:
            progress.step(f"checking {_a(request.what)}")
            speed = _check(server, unit, arguments, request)
            tokens_per_second = tokens_per_second or speed
    return Answer(build_info=build, n_ctx=context, tokens_per_second=tokens_per_second)


def _tokens_a_sentence(server: Server) -> float:
    """How many tokens the server makes of a sentence; the most that there can be where it does not say."""
    try:
        tokens = server.post("/tokenize", {"content": SENTENCE * 10}, timeout=60).get("tokens")
    except NoAnswerError:
        tokens = None
    return len(tokens) / 10 if isinstance(tokens, list) and tokens else MOST_TOKENS_A_SENTENCE


def _a(what: str) -> str:
    return f"{'an' if what[0] in 'aeiou' else 'a'} {what}"


def _check_refusal_without_key(server: Server, unit: str, request: Request) -> None:
    try:
        server.post(request.path, request.body, timeout=_ANSWER_WITHIN_S)
    except NoAnswerError as error:
        if error.status == 401:
            return
        raise JobFailedError(
            f"{unit} does not refuse a request without the API key with HTTP 401 ({error})", last_lines(unit)
        ) from None
    raise JobFailedError(f"{unit} answers a request without the API key, so anyone's", last_lines(unit))


def _check(server: Server, unit: str, arguments: Sequence[str], request: Request) -> float:
    """Return the tokens generated per second; 0 where none were."""
    try:
        answer = server.post(request.path, request.body, timeout=_ANSWER_WITHIN_S)
    except NoAnswerError as error:
        raise JobFailedError(
            f"{unit} does not answer {_a(request.what)} ({error}){_remedy(error, request)}", last_lines(unit)
        ) from None
    if not is_answer(arguments, answer):
        nothing = "a token" if request.what.startswith("completion") else "a result"
        raise JobFailedError(
            f"{unit} answered {_a(request.what)} without {nothing}: {json.dumps(answer)[:200]}", last_lines(unit)
        )
    speed = nested(answer, "timings", "predicted_per_second")
    return float(speed) if isinstance(speed, (int, float)) else 0.0


def _remedy(error: NoAnswerError, request: Request) -> str:
    if "Pooling type 'none'" in str(error):
        return ': the model has no pooling of its own, so declare serve.pooling ("mean", "cls" or "last")'
    if "picture" in request.what:
        return ": check that the mmproj is the one of this model, or leave it out"
    return ""
