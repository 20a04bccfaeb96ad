"""llama.cpp: releases, model files, units, and whatever reaches it behind the declared flags."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tasks.planning import layout
from tasks.planning.checks.base import Check, Finding, Severity
from tasks.planning.checks.box import Box
from tasks.spec.rig import Rig


class _OfDeploy(Check):
    """What deploy.py itself would change, by its own comparison."""

    severity = Severity.ERROR
    by_deploy = True
    remedy = "run deploy.py"

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """The differences filed under this check's id."""
        yield from self.of_differences(box.differences.get(self.id, []))


class ReleasesWhole(_OfDeploy):
    """A release that lost a file starts no more."""

    id = "llama.release"
    expects = "every declared build's release there, each file of its manifest of the recorded size"


class ModelFiles(_OfDeploy):
    """A truncated or replaced shard is a model that fails, or lies."""

    id = "llama.model-files"
    expects = "every locked file with the size, time and inode of its verification; every byte with --data deep=1"


class ModelLock(_OfDeploy):
    """Without a lock nobody knows what should be there."""

    id = "llama.model-lock"
    expects = "an entry for every declared model in rig.model_lock, a file of this repository"


class UnitsAsDeclared(_OfDeploy):
    """The unit file, the running process and its release, the start at boot."""

    id = "llama.units"
    expects = (
        "each declared model's unit as rendered from this repository, running the declared release and flags, "
        "answering, started at boot exactly when declared"
    )


class KeyFilesUsable(_OfDeploy):
    """A key file without a key opens a server to everyone at its next start."""

    id = "llama.key-files"
    expects = "every declared api_key_file there, with a usable key, owned by root and with mode 600 or 400"


class OtherOperations(_OfDeploy):
    """Everything else deploy.py would change: packages, directories, programs, toolkits."""

    id = "deploy.operation"
    expects = "no other operation of deploy.py with anything to do"
    severity = Severity.WARNING

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """One finding an operation that no finding of another check accounts for; a note accounts for nothing."""
        for operation, closes in box.operations.items():
            if any(finding.fails for check in closes for finding in check().look(rig, box)):
                continue
            if why := box.refusals.get(operation):
                refused = self.finding(f"deploy.py refuses: {why}", "nothing to do", about=operation)
                yield replace(refused, by_deploy=False, remedy="mend what is said here, then run deploy.py")
            else:
                yield self.finding("deploy.py would run it", "nothing to do", about=operation)


class ConfigFiles(Check):
    """llama.cpp applies these files to every one of its programs, before environment and flags."""

    id = "llama.config-files"
    expects = "no config.ini in /etc/llama.cpp or a user's ~/.config/llama.cpp; derived: flags are declared here"
    remedy = "move its settings into the model's declaration and delete it"

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """The service user has no home, so only /etc's reaches the units: that one is an error."""
        for path in box.strays.config_files:
            everyone = path.startswith("/etc/")
            yield self.finding(
                "there",
                "no such file",
                about=path,
                severity=Severity.ERROR if everyone else Severity.NOTE,
            )


class Environment(Check):
    """llama-server reads a LLAMA_ARG_ variable like a flag that nobody declared."""

    id = "llama.environment"
    expects = "no LLAMA_ARG_* or LLAMA_API_KEY in the environments of the box or of a running server; derived"
    remedy = "say it in the model's declaration, and delete it there"

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """Set in a file, or seen in a running process. Never a value: it may be a key."""
        for place in box.strays.environment:
            yield self.finding("set", "not set", about=place)
        if box.strays.unseen:
            yield self.not_known(f"what running servers have set: {box.strays.unseen}")
        ours = {layout.unit_name(model.name) for model in rig.models}
        for server in box.strays.servers:
            for name in server.llama_environment:
                if name == "LLAMA_ARG_LOG_VERBOSITY" and server.unit in ours:
                    continue  # a planned model's first start logs its buffer sizes (tasks/files/first_start.py)
                found = self.finding(
                    "set in the running process",
                    "not set",
                    about=f"{name} of {server.unit or f'process {server.pid}'}",
                    severity=Severity.ERROR,
                )
                yield replace(found, process=server.pid)


class OtherServers(Check):
    """A llama-server that nobody declared holds memory and perhaps the port of one that is."""

    id = "llama.other-servers"
    expects = "no running llama-server but those of declared models; derived"
    remedy = "stop it, or declare its model"

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """By the unit the process belongs to."""
        if box.strays.unseen:
            yield self.not_known(box.strays.unseen)
        declared = {layout.unit_name(model.name) for model in rig.models}
        # A model that is no longer declared is a finding about its unit already.
        retired = {difference.what for difference in box.differences.get("llama.units", [])}
        for server in box.strays.servers:
            if server.unit not in declared | retired:
                where = f" of {server.unit}" if server.unit else ""
                found = self.finding(f"process {server.pid}{where}", "none", about=" ".join(server.command[:1]))
                yield replace(found, process=server.pid)


class OpenWithoutKey(Check):
    """Anyone in the network may use it, and read its slots."""

    id = "llama.open-port"
    expects = "every llama-server that listens beyond loopback asks for an API key; derived from its command line"
    remedy = "declare host 127.0.0.1, or an api_key_file"
    severity = Severity.ERROR

    def look(self, rig: Rig, box: Box) -> Iterator[Finding]:
        """Where it really listens, whatever was declared."""
        if box.strays.ports_unseen:
            yield self.not_known(box.strays.ports_unseen)
        for server in box.strays.servers:
            beyond = [address for address in server.listens if not _loopback(address)]
            keyed = "LLAMA_API_KEY" in server.llama_environment or any(
                word.split("=", 1)[0] in ("--api-key", "--api-key-file") for word in server.command
            )
            if beyond and not keyed:
                found = self.finding(
                    f"listens on {', '.join(beyond)} without a key",
                    "a key, or loopback alone",
                    about=server.unit or f"process {server.pid}",
                )
                yield replace(found, process=server.pid)


def _loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    return host.startswith(("127.", "::ffff:127.")) or host in ("::1", "localhost")


ALL: tuple[Check, ...] = (
    ReleasesWhole(),
    ModelFiles(),
    ModelLock(),
    UnitsAsDeclared(),
    KeyFilesUsable(),
    ConfigFiles(),
    Environment(),
    OtherServers(),
    OpenWithoutKey(),
    OtherOperations(),
)
