"""The command that restores what served before an interrupted switch, and the unit that runs it at boot."""

from __future__ import annotations

from llamarig.render import layout

SERVICE = "llamarig_restore.service"
"""With an underscore, which no model's name has: `llamarig-*` are the units of models."""
RESTORE = f"{layout.PYTHON} -B -m llamarig.remote.serve.restore_served"
"""The command, to be run in layout.PROGRAMS; its arguments are in remote/serve/restore_served.py."""

_TEXT = """\
# Written by llamarig; the next deploy overwrites edits.
[Unit]
Description=Undo a switch of model servers that a power cut has interrupted
# The journal is there only while a switch is unfinished.
ConditionPathExists={records}/switch-journal
RequiresMountsFor={programs} {records}
# Before every ordinary service, so before any model: systemd would start a unit file that has not been proved. No model
# is named here, or each change of a rig's models would be one of this unit too.
DefaultDependencies=no
After=local-fs.target
Before=basic.target shutdown.target
Conflicts=shutdown.target

[Service]
Type=oneshot
WorkingDirectory={programs}
ExecStart={command} at-boot {records}
# The models start even where this fails.
TimeoutStartSec=60
# Runs as root to restore unit files.
NoNewPrivileges=yes
ProtectHome=yes
PrivateTmp=yes
PrivateNetwork=yes
ProtectKernelModules=yes
RestrictSUIDSGID=yes

[Install]
WantedBy=multi-user.target
"""


def service_text() -> str:
    """Text of the unit."""
    return _TEXT.format(
        records=layout.PROOFS,
        programs=layout.PROGRAMS,
        command=RESTORE,
    )
