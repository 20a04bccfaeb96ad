"""Flags of llama-server that give its API's clients more than a model: each is accepted by its name, with a reason."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class RiskyFlag:
    """``name``: the spelling by which it is accepted; ``aliases``: its others; ``risk``: what it gives to whom."""

    name: str
    risk: str
    aliases: tuple[str, ...] = ()
    environment: str = ""
    """The environment variable that llama-server reads in its place (common/arg.cpp, pinned commit)."""

    def refusal(self) -> str:
        """The message for an owner who has not accepted it."""
        return f'{self.name}: {self.risk}; leave it out, or accept={{"{self.name}": "your reason"}} in serve'


# The pinned commit knows all of these. Those that it warns of itself ("do not enable in untrusted environments") come
# first.
RISKY_FLAGS = (
    RiskyFlag(
        "--tools",
        "clients of the API can run shell commands and write files on the box, as the service user",
        environment="LLAMA_ARG_TOOLS",
    ),
    RiskyFlag(
        "--agent",
        "it switches on all of --tools, so clients of the API can run shell commands on the box, and --ui-mcp-proxy",
        ("-ag",),
        "LLAMA_ARG_AGENT",
    ),
    RiskyFlag(
        "--mcp-servers-config",
        "it starts the programs of that file, and clients of the API can use them",
        environment="LLAMA_ARG_MCP_SERVERS_CONFIG",
    ),
    RiskyFlag(
        "--mcp-servers-json",
        "it starts the programs it names, and clients of the API can use them",
        environment="LLAMA_ARG_MCP_SERVERS_JSON",
    ),
    RiskyFlag(
        "--ui-mcp-proxy",
        "clients of the API can send requests through the server to any address that it reaches",
        ("--webui-mcp-proxy",),
        "LLAMA_ARG_UI_MCP_PROXY",
    ),
    RiskyFlag(
        "--rpc",
        "the model and every prompt go unencrypted to other machines, whose answers the server trusts; llama.cpp calls "
        "its RPC insecure (tools/rpc/README.md)",
        environment="LLAMA_ARG_RPC",
    ),
    RiskyFlag("--media-path", "clients of the API can have every file below that directory read"),
    RiskyFlag(
        "--path",
        "clients of the API can read every file below that directory",
        environment="LLAMA_ARG_STATIC_PATH",
    ),
    RiskyFlag(
        "--video-ffmpeg-dir",
        "it runs programs of that directory on files that clients of the API send",
        environment="LLAMA_ARG_VIDEO_FFMPEG_DIR",
    ),
)


def flag_of(argument: str) -> str:
    """The flag of an argument as llama-server reads it: after two dashes an underscore is a dash (common/arg.cpp)."""
    flag = argument.split("=", 1)[0]
    return flag.replace("_", "-") if flag.startswith("--") else flag


def risky_flags(arguments: Iterable[str]) -> list[RiskyFlag]:
    """The risky flags among arguments, in any spelling."""
    flags = {flag_of(argument) for argument in arguments}
    return [risky for risky in RISKY_FLAGS if flags & {risky.name, *risky.aliases}]


def risky_flag_names() -> frozenset[str]:
    """The names by which they can be accepted."""
    return frozenset(risky.name for risky in RISKY_FLAGS)


def risky_environment(name: str) -> RiskyFlag | None:
    """The risky flag that an environment variable sets."""
    return next((risky for risky in RISKY_FLAGS if risky.environment == name), None)
