"""The disposable box of this machine; `python3 -m tests rehearsal` makes it."""

from inventory.rehearsal_box import ADDRESS, RehearsalBox

_box = RehearsalBox.from_environment()

rehearsal = [
    (
        "rehearsal-box",
        {
            "ssh_hostname": ADDRESS,
            "ssh_port": _box.port,
            "ssh_user": "root",
            "ssh_key": str(_box.key),
            "ssh_known_hosts_file": str(_box.known_hosts),
            "ssh_strict_host_key_checking": "yes",
        },
    )
]
