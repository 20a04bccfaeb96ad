"""Your boxes. A box's group is its hardware class: what it gets is in group_data/<group>.py.

Keep the lines of the boxes you have and put their names or addresses in; delete the others. `.invalid` names exist
nowhere (RFC 6761), so nothing is reached before you do. See `pyinfra inventory/home.py debug-inventory`.
"""

# Logging in as root needs nothing more than this.
rtx4090_rtx5070ti = [("your-rtx4090-box.invalid", {"ssh_user": "root"})]

# Logging in as somebody else needs sudo; where sudo wants a password, pyinfra asks for it.
rtx4070 = [("your-rtx4070-box.invalid", {"ssh_user": "you", "_sudo": True})]

# ssh tries your agent and your usual keys; another one is `"ssh_key": "~/.ssh/boxes"` beside ssh_user.
rtx_16gb = [("your-16gb-box.invalid", {"ssh_user": "root"})]

# A name of its own for the log, an address and a port for ssh.
rx7900xt = [("your-rx7900xt-box", {"ssh_hostname": "your-rx7900xt-box.invalid", "ssh_port": 22, "ssh_user": "root"})]
