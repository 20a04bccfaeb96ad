"""Writes files on a box: on the command's stdin to a unique name beside the target, which is renamed last.

pyinfra's own uploads write over the target, which may be a unit that systemd reads at that moment, or a program that
runs. With sudo they go through a name in /tmp that every user of the box can predict. An archive of a release is still
sent that way: it is large, and the job that unpacks it compares its sha256 first.
"""

from __future__ import annotations

import base64
import hashlib
import shlex

from pyinfra.api.command import StringCommand

# Without the check a connection that breaks would leave the beginning of the file: to base64 it looks like the end.
_WRITE = """\
set -e
part=$(mktemp {part})
trap 'rm -f "$part"' EXIT
trap 'exit 1' HUP INT TERM
base64 -d >"$part" || :
test "$(sha256sum <"$part" | cut -c1-64)" = {sha256} || {{ echo {damaged} >&2; exit 1; }}
chown "$(id -u):$(id -g)" "$part"
chmod {mode} "$part"
sync "$part"
mv -fT "$part" {path}
sync {directory}"""


def upload(content: str | bytes, path: str, mode: str = "644") -> StringCommand:
    """The command that replaces a file of the box, or creates it. It belongs to the user that runs it, root on a box.

    :param content: text is written as UTF-8
    :param path: absolute; its directory must exist
    """
    data = content.encode() if isinstance(content, str) else content
    directory, _, name = path.rpartition("/")
    script = _WRITE.format(
        part=shlex.quote(f"{directory}/.{name}.XXXXXXXXXX.part"),
        sha256=hashlib.sha256(data).hexdigest(),
        damaged=shlex.quote(f"{path} did not arrive whole, and is as it was: run this again"),
        mode=mode,
        path=shlex.quote(path),
        directory=shlex.quote(directory),
    )
    return StringCommand(script, _stdin=base64.encodebytes(data).decode() or "\n")
