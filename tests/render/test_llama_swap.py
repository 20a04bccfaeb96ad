"""The configuration of llama-swap: the same units, names and bounds as the declaration."""

from __future__ import annotations

from typing import Any

import yaml
from llamarig import declare as d
from llamarig.declare.rig import Rig
from llamarig.render.llama_swap import llama_swap_text


def declared(**fields: Any) -> Rig:
    def model(name: str, port: int, **serve: Any) -> Any:
        served = d.serve(port=port, context=4096, **serve)
        return d.model(name=name, repo="o/r", quant="Q4_K_M", build="cpu", serve=served)

    models = [model("a", 9000, alias="org/a: #1", parallel=2), model("b", 9000), model("embed", 9001, coexists=True)]
    return Rig.model_validate(d.rig(builds=[d.build(name="cpu", backend="cpu")], models=models, **fields))


def test_a_rig_without_a_front() -> None:
    config = yaml.safe_load(llama_swap_text(declared()))
    assert config["models"]["a"] == {
        "cmd": "systemctl start --wait llamarig-a.service",
        "cmdStop": "systemctl stop llamarig-a.service",
        "proxy": "http://127.0.0.1:9000",
        "checkEndpoint": "/health",
        "aliases": ["org/a: #1"],
        "concurrencyLimit": 102,
    }
    assert config["groups"] == {
        "one-at-a-time": {"swap": True, "exclusive": False, "members": ["a", "b"]},
        "side-by-side": {"swap": False, "exclusive": False, "members": ["embed"]},
    }
    assert "hooks" not in config


def test_what_a_front_declares_is_in_it_as_far_as_it_has_words() -> None:
    front = d.front(
        port=8080,
        aliases=(d.front_alias(name="b:fast", model="b", defaults={"temperature": 0.2}),),
        idle_stop_s={"b": 600},
        preload=("embed",),
        concurrency={"b": 3},
        queue_length=10,
    )
    config = yaml.safe_load(llama_swap_text(declared(front=front)))
    assert config["models"]["b"] | {"cmd": "", "cmdStop": "", "proxy": ""} == {
        **{"cmd": "", "cmdStop": "", "proxy": "", "checkEndpoint": "/health"},
        "aliases": ["b:fast"],
        "ttl": 600,
        "concurrencyLimit": 13,
        "filters": {"setParamsByID": {"b:fast": {"temperature": 0.2}}},
    }
    assert config["hooks"] == {"on_startup": {"preload": ["embed"]}}
