"""The command that restores what served before an interrupted switch, and the unit that does, at once or at boot."""

from __future__ import annotations

from llamarig.render import layout

SERVICE = "llamarig_restore.service"
"""With an underscore, which no model's name has: `llamarig-*` are the units of models."""
RESTORE = f"{layout.PYTHON} -B -m llamarig.remote.serve.restore_served {layout.PROOFS} {layout.JOBS}"
"""The command, to be run in layout.PROGRAMS."""

_TEXT = """\
# Written by llamarig; the next deploy overwrites edits.
[Unit]
Description=Undo an interrupted switch of model servers
# The journal is there only while a switch is unfinished; copies of unit files alone are of one that changed nothing.
ConditionPathExists=|{records}/switch-journal
ConditionPathExistsGlob=|{units}/*.llamarig-before
RequiresMountsFor={programs} {records} {jobs}
# At boot, before every ordinary service, so before any model: systemd would start a unit file that has not been proved.
# No model is named here, or each change of a rig's models would be one of this unit too.
DefaultDependencies=no
After=local-fs.target
Before=basic.target shutdown.target
Conflicts=shutdown.target

[Service]
Type=oneshot
WorkingDirectory={programs}
ExecStart={command}
# At boot, the models start even where this fails. The start of one may wait for GPU memory.
TimeoutStartSec=120
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
        units=layout.UNITS,
        jobs=layout.JOBS,
        programs=layout.PROGRAMS,
        command=RESTORE,
    )
