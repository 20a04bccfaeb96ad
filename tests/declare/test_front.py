"""A declared front: what is refused, in words, and the keys that models get behind it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from llamarig import declare as d
from llamarig.declare import DeclarationError
from llamarig.declare.front import UPSTREAM_KEYS
from llamarig.declare.rig import Rig


def model(name: str, **serve: Any) -> Any:
    fields = {"port": 9000, "context": 4096, **serve}
    return d.model(name=name, repo="o/r", quant="Q4_K_M", build="cpu", serve=d.serve(**fields))


def rig(*models: Any, **front: Any) -> Any:
    declared = models or (model("a"), model("b"), model("embed", coexists=True, port=9001))
    cpu = d.build(name="cpu", backend="cpu")
    return d.rig(builds=[cpu], models=declared, front=d.front(**{"port": 8080, **front}))


KEY = d.front_key(name="laptop")
REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "open without keys": (lambda: rig(host="0.0.0.0"), "host 0.0.0.0 is open to the network: declare a key"),
    "clients of loopback": (lambda: rig(clients=("192.168.1.0/24",)), "clients has no effect"),
    "no network": (lambda: rig(host="0.0.0.0", keys=(KEY,), clients=("lan",)), "write a network as 192.168.1.0/24"),
    "no address": (lambda: rig(host="box.lan"), "not an IP address"),
    "a name with a port": (lambda: rig(hosts=("box.lan:8080",)), "write a name without a port"),
    "half of TLS": (lambda: rig(tls_key_file="/etc/x"), "TLS needs both a certificate and its key"),
    "a relative path": (lambda: rig(tls_key_file="x", tls_certificate_file="/x"), "the absolute path of a file"),
    "any origin": (lambda: rig(cors_origins=("*",)), "'*' is no origin"),
    "bounds": (lambda: rig(longest_wait_s=5), "longest_wait_s 5 is shorter than least_residency_s 10"),
    "two keys of one name": (lambda: rig(keys=(KEY, KEY)), "two keys are called 'laptop'"),
    "a key for no model": (
        lambda: rig(keys=(d.front_key(name="laptop", models=("x",)),)),
        "front.keys: 'laptop' names 'x', which is no model of this box: name one of a, b, embed",
    ),
    "an alias of no model": (
        lambda: rig(aliases=(d.front_alias(name="fast", model="x"),)),
        "front.aliases names 'x', which is no model",
    ),
    "an alias that is a model": (
        lambda: rig(aliases=(d.front_alias(name="b", model="a"),)),
        "two models or aliases are called 'b'",
    ),
    "an alias of serve that is a model": (lambda: rig(model("a", alias="b"), model("b")), "are called 'b'"),
    "a default of the question": (lambda: d.front_alias(name="x", model="a", defaults={"messages": []}), "'messages'"),
    "a default that is no JSON": (lambda: d.front_alias(name="x", model="a", defaults={"top_p": float("nan")}), "JSON"),
    "no idle time": (lambda: rig(idle_stop_s={"a": 0}), "write a number, at least 1"),
    "two exclusive preloads": (lambda: rig(preload=("a", "b")), "a and b exclude each other"),
    "a model on the network": (
        lambda: rig(model("a", host="0.0.0.0", api_key_file="/etc/k")),
        "model 'a': host 0.0.0.0 lets clients go round the front",
    ),
    "a model with TLS": (
        lambda: d.rig(
            builds=[d.build(name="cpu", backend="cpu", tls=True)],
            models=[model("a", tls_key_file="/etc/k", tls_certificate_file="/etc/c")],
            front=d.front(port=8080),
        ),
        "TLS is the front's",
    ),
    "no models": (
        lambda: d.rig(builds=[d.build(name="cpu", backend="cpu")], models=[], front=d.front(port=1)),
        "there is no model that it could serve",
    ),
    "no model": (lambda: rig("a"), "models[0]"),
    "the same port": (lambda: rig(model("a", port=8080)), "serve.port 8080 is the front's"),
}


@pytest.mark.parametrize(("declare", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_a_mistake_is_refused_in_words(declare: Callable[[], object], words: str) -> None:
    with pytest.raises(DeclarationError) as refused:
        declare()
    assert words in str(refused.value)


def test_models_behind_a_front_get_keys_of_their_own() -> None:
    declared = Rig.model_validate(rig(model("a"), model("b", api_key_file="/etc/own")))
    assert [one.serve.api_key_file for one in declared.models] == [f"{UPSTREAM_KEYS}/a", "/etc/own"]


def test_without_a_front_nothing_changes() -> None:
    cpu = d.build(name="cpu", backend="cpu")
    declared = Rig.model_validate(d.rig(builds=[cpu], models=[model("a")]))
    assert (declared.front, declared.models[0].serve.api_key_file) == (None, None)


def test_a_front_survives_its_way_through_json() -> None:
    front = {
        "host": "0.0.0.0",
        "keys": (d.front_key(name="laptop", models=("a",), concurrency=2),),
        "aliases": (d.front_alias(name="a:fast", model="a", defaults={"top_k": 1}),),
        "preload": ("embed",),
    }
    declared = rig(**front)
    assert Rig.model_validate(declared).to_json() == declared
