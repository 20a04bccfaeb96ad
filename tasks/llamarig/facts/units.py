"""The model units of a box: unit file, running process, start time and health."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pyinfra.api.facts import FactBase

from llamarig.facts.key_files import USABLE_LINE
from llamarig.facts.output import decimal_number, decode_base64, parse_blocks, whole_number
from llamarig.remote.serve.first_start import FIRST_START
from llamarig.remote.serve.key_file import LARGEST
from llamarig.render import layout

_CREDENTIAL = "\nLoadCredential=api-key:"
# Without root's ~/.curlrc, which may add a proxy or follow redirects with the key; -q has to be the first option. A
# certificate is not checked: the request stays on the box, at an address that the certificate may not name.
_STATUS = "curl -q -sk -o /dev/null -w '%{http_code}' --noproxy '*' --max-time 5"


@dataclass(frozen=True)
class DropIn:
    """A file that overrides settings of a unit."""

    path: str
    text: str

    @property
    def settings(self) -> tuple[str, ...]:
        """Names of the settings that it has, each once."""
        return tuple(dict.fromkeys(re.findall(r"^\s*(\w+)\s*=", self.text, re.MULTILINE)))


@dataclass(frozen=True)
class Unit:
    """A model unit. Identities are compared for equality alone; they are empty where unknown."""

    text: str = ""
    active: str = "inactive"
    enabled: str = ""
    needs_reload: bool = False
    arguments: tuple[str, ...] = ()
    """argv of the running process."""
    drop_ins: tuple[DropIn, ...] = ()
    """Without those of packages and of llamarig's own first starts."""
    age_s: float | None = None
    """Seconds since its process was started, None where that is unknown."""
    invocation: str = ""
    """systemd's id of its last start."""
    file: str = ""
    """Identity of the unit file."""
    proved_invocation: str = ""
    """The start that has answered a completion, empty in a proof of an earlier version; likewise the next two."""
    proved_file: str = ""
    """Identity of the unit file at that time."""
    proved_inputs: str = ""
    """Digest of the identities of the model's files at that time."""
    key: str = ""
    """``same`` where the running server was started with its key and certificate files as they are now, ``other`` where
    with another one; empty where it has none, or systemd keeps its copies out of sight."""
    status_without_key: int = 0
    """HTTP status of /props without the key, 0 where there is no answer; read of servers that answer /health."""
    status_with_key: int = 0
    """The same with the first key of the key file."""
    proved_sha256: str = ""
    """sha256 of the last unit text that has answered a completion."""
    proved_directives_sha256: str = ""
    """Of that text's directives alone (remote/shared/unit_directives.py); empty in a proof of an earlier version."""
    away_s: float = 0.0
    """Seconds that the last switch to it took, from the stop of what served before; 0 where unknown."""
    rolled_back_at: str = ""
    """When tasks/rollback.py was last run for it, in UTC; empty where it was not."""
    rolled_back_to: str = ""
    """sha256 of the directives that it was then given."""
    health: int = 0
    """HTTP status of /health, 0 where there is no answer."""

    @property
    def wants_key(self) -> bool:
        """Whether its file gives the server an API key."""
        return _CREDENTIAL in f"\n{self.text}"

    @property
    def is_active(self) -> bool:
        """Whether it is running or starting."""
        return self.active in ("active", "activating")


class Units(FactBase[dict[str, Unit]]):
    """Unit name -> Unit, for every llamarig unit of the box, declared or not; text and argv in base64.

    Output::

        unit=llamarig-tiny.service
        File=1795842009.898784961
        Uptime=8983.51
        Text=IyB0aW55OiBsbGFtYXJpZy9UaW55LVF3ZW4z...
        MainPID=4749
        ExecMainStartTimestampMonotonic=8629153240
        ActiveState=active
        UnitFileState=enabled
        NeedDaemonReload=no
        InvocationID=bd9d67bf088340bab83c4d454f19f900
        Arguments=L29wdC9sbGFtYXJpZy9sbGFtYS5jcHAvMGMx...
        Proved=4e633563c89d7291dfb45357d24953356085...
        Directives=c9f4cad68f7d37778ddb504d8e0f8a8db5fc...
        ProvedFile=1795842009.898784961
        ProvedInvocation=bd9d67bf088340bab83c4d454f19f900
        ProvedInputs=703746c1a50c572618f577e551f4c4d2
        Away=2.0
        RolledBackAt=2026-11-28 12:46 UTC
        RolledBackTo=6ccf5ecde8b2f52253438fbf2ff3c455623328950f553e26fd56cead6042ee47
        Health=200

    Of one with a drop-in, and of one with a key, also::

        DropIns= /etc/systemd/system/llamarig-tiny.service.d/override.conf:W1NlcnZpY2VdCk1lbW9yeU1heD02NDBN...

        Key=same
        WithoutKey=401
        WithKey=200
    """

    default = dict

    def command(self, health: Mapping[str, str]) -> str:
        """:param health: unit name -> URL of its /health"""
        urls = " ".join(f"{unit}) u={url};;" for unit, url in sorted(health.items()))
        return (
            # The key is piped: in an argument, every user could read it.
            "ask() { if test -n \"$k\"; then { printf 'Authorization: Bearer '; head -c "
            f"{LARGEST} \"$k\" | LC_ALL=C grep -a -m 1 -E '{USABLE_LINE}'; }} 2>/dev/null | {_STATUS} -H @- $1; "
            f"else {_STATUS} $1; fi; }}; "
            f"cd {layout.UNITS} && for f in llamarig-*.service; do test -f $f || continue; "
            'echo "unit=$f"; echo "File=$(stat -c %.9Y $f)"; echo "Uptime=$(cut -d\\  -f1 /proc/uptime)"; '
            'echo "Text=$(base64 -w0 <$f)"; '
            "systemctl show $f -p ActiveState -p UnitFileState -p NeedDaemonReload -p MainPID -p InvocationID "
            "-p ExecMainStartTimestampMonotonic; "
            "p=$(systemctl show $f -p MainPID --value); "
            "for i in $(systemctl show $f -p DropInPaths --value); do "
            f'case $i in /usr/*|*/{FIRST_START}) ;; *) o="$o $i:$(base64 -w0 <$i)";; esac; done; '
            'test -n "$o" && echo "DropIns=$o"; o=; '
            'test "$p" != 0 && echo "Arguments=$(base64 -w0 </proc/$p/cmdline)"; '
            # A changed key needs a restart although the unit file stays the same. Sums of keys are compared, not shown.
            "test \"$p\" != 0 && sed -n 's/^LoadCredential=//p' $f | while IFS=: read -r c k; do "
            'c=/run/credentials/$f/$c; test -r "$c" || continue; '
            'test "$(sha256sum <"$c")" = "$(sha256sum 2>/dev/null <"$k")" && echo Key=same || echo Key=other; '
            "done | sort | head -n 1; "
            "k=$(sed -n 's/^LoadCredential=api-key://p' $f); "
            f"r={layout.PROOFS}/$f.json; test -f $r && {{ {_recorded('Proved', 'text_sha256')}; "
            f"{_recorded('Directives', 'directives_sha256')}; {_recorded('ProvedFile', 'unit_file')}; "
            f"{_recorded('ProvedInvocation', 'invocation')}; {_recorded('ProvedInputs', 'inputs')}; "
            "echo \"Away=$(grep -o '\"away_s\": [0-9.]*' $r | cut -d' ' -f2)\"; }; "
            f"b={layout.PROOFS}/$f.rolled-back; test -f $b && cat $b; "
            f"u=; case $f in {urls} esac; "
            'test -n "$u" && test "$p" != 0 && '
            # With the key, which /health wants where the API has a prefix.
            'h=$(ask $u) && echo "Health=$h" && test "$h" = 200 && test -n "$k" && { '
            f'echo "WithoutKey=$({_STATUS} ${{u%/health}}/props)"; '
            'echo "WithKey=$(ask ${u%/health}/props)"; }; '
            "done; true"
        )

    def process(self, output: list[str]) -> dict[str, Unit]:
        return {name: _unit(values) for name, values in parse_blocks(output, "unit").items()}


def _recorded(name: str, key: str) -> str:
    """A shell command that prints a text of the start record ``$r``, which is one line of JSON."""
    return f'echo "{name}=$(grep -o \'"{key}": "[0-9a-f.]*"\' $r | cut -d\\" -f4)"'


def _age_s(values: Mapping[str, str]) -> float | None:
    """Seconds since the start, by clocks that cannot be set.

    The monotonic clock stands still while a box sleeps, so the age may be too large after that.
    """
    started = whole_number(values.get("ExecMainStartTimestampMonotonic", ""))
    uptime = decimal_number(values.get("Uptime", ""))
    return None if not started or uptime is None else uptime - started / 1e6


def _unit(values: Mapping[str, str]) -> Unit:
    arguments = decode_base64(values.get("Arguments", ""))
    return Unit(
        text=decode_base64(values.get("Text", "")),
        active=values.get("ActiveState", "inactive"),
        enabled=values.get("UnitFileState", ""),
        drop_ins=tuple(
            DropIn(path, decode_base64(text))
            for path, _, text in (one.partition(":") for one in values.get("DropIns", "").split())
        ),
        needs_reload=values.get("NeedDaemonReload") == "yes",
        arguments=tuple(arguments.removesuffix("\0").split("\0")) if arguments else (),
        age_s=_age_s(values),
        invocation=values.get("InvocationID", ""),
        file=values.get("File", ""),
        proved_invocation=values.get("ProvedInvocation", ""),
        proved_file=values.get("ProvedFile", ""),
        proved_inputs=values.get("ProvedInputs", ""),
        key=values.get("Key", ""),
        status_without_key=whole_number(values.get("WithoutKey", "")) or 0,
        status_with_key=whole_number(values.get("WithKey", "")) or 0,
        proved_sha256=values.get("Proved", ""),
        proved_directives_sha256=values.get("Directives", ""),
        away_s=decimal_number(values.get("Away", "")) or 0.0,
        rolled_back_at=values.get("RolledBackAt", ""),
        rolled_back_to=values.get("RolledBackTo", ""),
        health=whole_number(values.get("Health", "")) or 0,
    )
