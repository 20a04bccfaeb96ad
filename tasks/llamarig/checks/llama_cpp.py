"""llama.cpp: settings besides the declared flags, undeclared servers, and servers without their GPU or a cache."""

from __future__ import annotations

from collections.abc import Iterator

from llamarig.checks.base import Check, Finding, Severity
from llamarig.checks.box import Box
from llamarig.declare.placement import CpuOnly
from llamarig.declare.rig import Rig
from llamarig.items.model_units import ServedModels
from llamarig.render import layout


class ConfigFiles(Check):
    """llama.cpp's programs read these files before environment and flags."""

    id = "llama.config-files"
    expects = "no config.ini in /etc/llama.cpp or a user's ~/.config/llama.cpp; derived: flags are declared here"
    remedy = "move its settings into the model's declaration and delete it"

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """An error only in /etc: the service user has no home."""
        for path in box.strays.config_files:
            everyone = path.startswith("/etc/")
            yield self.finding(
                "exists",
                "no such file",
                about=path,
                severity=Severity.ERROR if everyone else Severity.NOTE,
            )


class Environment(Check):
    """llama-server reads a LLAMA_ARG_ variable like a flag."""

    id = "llama.environment"
    expects = "no LLAMA_ARG_* or LLAMA_API_KEY in the environments of the box or of a running server; derived"
    remedy = "move it to the model's declaration"

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """Variables set in a file or in a running process. Values are never shown: one may be a key."""
        for place in box.strays.environment:
            yield self.finding("set", "not set", about=place)
        if box.strays.unseen:
            yield self.not_known(f"what running servers have set: {box.strays.unseen}")
        ours = {layout.unit_name(model.name) for model in rig.models}
        for server in box.strays.servers:
            for name in server.llama_environment:
                if name == "LLAMA_ARG_LOG_VERBOSITY" and server.unit in ours:
                    continue  # a planned model's first start logs its buffer sizes (remote/serve/first_start.py)
                yield self.finding(
                    "set in the running process",
                    "not set",
                    about=f"{name} of {server.unit or f'process {server.pid}'}",
                    severity=Severity.ERROR,
                    process=server.pid,
                )


class OtherServers(Check):
    """An undeclared llama-server uses memory, and perhaps the port of a declared one."""

    id = "llama.other-servers"
    expects = "no running llama-server but those of declared models; derived"
    remedy = "stop it, or declare its model"

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        if box.strays.unseen:
            yield self.not_known(box.strays.unseen)
        declared = {layout.unit_name(model.name) for model in rig.models}
        # The unit of a model that is no longer declared is a finding already.
        retired = {difference.what for difference in box.differences.get(ServedModels.name, [])}
        for server in box.strays.servers:
            if server.unit not in declared | retired:
                where = f" of {server.unit}" if server.unit else ""
                yield self.finding(
                    f"process {server.pid}{where}", "none", about=" ".join(server.command[:1]), process=server.pid
                )


class OpenWithoutKey(Check):
    """Without a key, everybody in the network can use a server and read its slots."""

    id = "llama.open-port"
    expects = "every llama-server that listens beyond loopback requires an API key; derived from its command line"
    remedy = "declare host 127.0.0.1, or an api_key_file"
    severity = Severity.ERROR

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        if box.strays.ports_unseen:
            yield self.not_known(box.strays.ports_unseen)
        for server in box.strays.servers:
            beyond = [address for address in server.listens if not _loopback(address)]
            keyed = "LLAMA_API_KEY" in server.llama_environment or any(
                word.split("=", 1)[0] in ("--api-key", "--api-key-file") for word in server.command
            )
            if beyond and not keyed:
                yield self.finding(
                    f"listens on {', '.join(beyond)} without a key",
                    "a key, or loopback alone",
                    about=server.unit or f"process {server.pid}",
                    process=server.pid,
                )


class Unproved(Check):
    """A deploy that changes a model that does not run only installs its unit."""

    id = "llama.unproved"
    expects = "every model that does not run has answered with its unit as it is; recorded by its last switch"
    remedy = "where you need it soon: systemctl start it, then run deploy.py, which checks its answers"
    severity = Severity.NOTE

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """No unit that differs: it is a finding already."""
        differing = {difference.what for difference in box.differences.get(ServedModels.name, [])}
        for unit in box.unproved:
            if unit not in differing:
                yield self.finding("has never answered a prompt with this unit", "an answer", about=unit)


class OnGpu(Check):
    """A server that finds no GPU when it starts serves from the CPU, and its /health answers all the same."""

    id = "llama.gpu"
    expects = (
        "each running model that is placed on a GPU computes there: its log does not say that no GPU was found, and "
        "its process has a GPU's device open (/proc/PID/fd); derived"
    )
    remedy = (
        "see whether the driver works (nvidia-smi, vulkaninfo, rocminfo), then `systemctl restart UNIT`; if it stays, "
        "something keeps the unit from the device: a drop-in (`systemctl cat UNIT`), or the mode of /dev/nvidia*, "
        "/dev/kfd or /dev/dri/render*"
    )
    severity = Severity.ERROR

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """A server that does not listen yet may not have opened its devices."""
        placed = {
            layout.unit_name(model.name): model
            for model in rig.models
            if rig.build_of(model).backend != "cpu" and not isinstance(model.serve.placement, CpuOnly)
        }
        for server in box.strays.servers:
            if server.unit not in placed or not server.listens:
                continue
            if server.no_gpu or server.devices == ():
                why = f"its log: {server.no_gpu}" if server.no_gpu else "it has no device of a GPU open"
                yield self.finding(
                    f"serves from the CPU ({why})",
                    "on a GPU, as its placement says",
                    about=server.unit,
                    remedy=self.remedy.replace("UNIT", server.unit),
                    process=server.pid,
                )


class PromptCache(Check):
    """A conversation whose state is not kept is computed again from its start, once another one has had the slot."""

    id = "llama.prompt-cache"
    expects = (
        "a prompt cache (cache_ram_mib) that holds the longest prompts; derived from the server's log. Builds from "
        "before llama.cpp #25070 (July 2026) keep larger ones all the same, until RAM runs out"
    )
    remedy = "raise cache_ram_mib, if the RAM is there; or lower context, or choose a smaller cache_type_k and _v"
    severity = Severity.NOTE

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        ours = {layout.unit_name(model.name) for model in rig.models}
        for server in box.strays.servers:
            if server.unit in ours and server.state_mib > server.cache_mib > 0:
                yield self.finding(
                    f"{server.cache_mib} MiB, and a prompt's state of {server.state_mib} MiB was not kept",
                    f"cache_ram_mib of {server.state_mib} or more",
                    about=server.unit,
                    process=server.pid,
                )


def _loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    return host.startswith(("127.", "::ffff:127.")) or host in ("::1", "localhost")
