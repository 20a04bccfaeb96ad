"""The declared models as a configuration of llama-swap, for those who have it: it starts and stops the same units.

Format: config-schema.json of llama-swap at 0bdb372. What it has no word for is not in here: a least residency, a
longest wait, keys with models of their own.
"""

from __future__ import annotations

from typing import Any

import yaml

from llamarig.declare.front import Front, FrontAlias
from llamarig.declare.model import Model
from llamarig.declare.rig import Rig
from llamarig.remote.shared.server_url import server_url
from llamarig.render import layout

_HEAD = """\
# Written by llamarig; the next deploy overwrites edits. For llama-swap: llama-swap --config THIS_FILE
# It has to run as a user who may start these units, and passes the Authorization header of its clients on to them.
"""
_LONGEST_LOAD_S = 7200
"""It has one time limit for all models; a unit's own is TimeoutStartSec=."""


def llama_swap_text(rig: Rig) -> str:
    """Text of the file."""
    exclusive = [model.name for model in rig.models if not model.serve.coexists]
    coexisting = [model.name for model in rig.models if model.serve.coexists]
    groups = {
        "one-at-a-time": {"swap": True, "exclusive": False, "members": exclusive},
        "side-by-side": {"swap": False, "exclusive": False, "members": coexisting},
    }
    preload = list(rig.front.preload) if rig.front is not None else []
    config = {
        "healthCheckTimeout": _LONGEST_LOAD_S,
        "models": {model.name: _model(rig.front, model) for model in rig.models},
        "groups": {name: group for name, group in groups.items() if group["members"]},
        **({"hooks": {"on_startup": {"preload": preload}}} if preload else {}),
    }
    text: str = yaml.safe_dump(config, sort_keys=False, allow_unicode=False, width=1000)
    return _HEAD + text


def _model(front: Front | None, model: Model) -> dict[str, Any]:
    serve, unit = model.serve, layout.unit_name(model.name)
    own = [serve.alias] if serve.alias not in (None, model.name) else []
    aliases: list[FrontAlias] = []
    if front is not None:
        aliases = [one for one in front.aliases if one.model == model.name]
    defaults = {one.name: one.defaults for one in aliases if one.defaults}
    names = [*own, *(one.name for one in aliases)]
    concurrency = serve.parallel if front is None else front.concurrency.get(model.name, serve.parallel)
    idle_stop_s = None if front is None else front.idle_stop_s.get(model.name)
    return {
        # It takes the end of this command for the end of the model.
        "cmd": f"systemctl start --wait {unit}",
        "cmdStop": f"systemctl stop {unit}",
        "proxy": server_url(serve.host, serve.port, prefix=serve.api_prefix or "", tls=serve.tls_key_file is not None),
        "checkEndpoint": "/health",
        **({"aliases": names} if names else {}),
        **({"ttl": int(idle_stop_s)} if idle_stop_s is not None else {}),
        # A request beyond it gets 429, so those that wait for a slot count too.
        "concurrencyLimit": concurrency + (front.queue_length if front is not None else 100),
        # These override what a request says; the front's defaults do not.
        **({"filters": {"setParamsByID": defaults}} if defaults else {}),
    }
