"""Print the declarations of what runs on a box and is not llamarig's: `pyinfra -y inventory/home.py tasks/adopt.py`.

Python goes to standard output, what became of each flag to standard error. Changes nothing. A file or a command line is
read by `llamarig adopt`. Options:

    --data pid=1234          only this process, also one of llamarig's own
    --data layers=48         how many layers the model has, where it is placed by --override-tensor
    --data build=NAME        the build of the box that is to serve it
"""

from __future__ import annotations

from llamarig.commands import adopt_running
from llamarig.engine.connection import set_tcp_nodelay
from pyinfra.context import host

set_tcp_nodelay()
adopt_running.running_servers_adopted(
    name="Adopt", pid=host.data.get("pid"), layers=host.data.get("layers"), build=str(host.data.get("build") or "")
)
