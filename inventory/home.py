"""Your boxes. The group of a box is its hardware class; group_data/<group>.py declares what the box gets.

Keep the lines of the boxes that you have, fill in their names or addresses, and delete the others. `.invalid` names
never resolve (RFC 6761), so nothing is reached before you do. See `pyinfra inventory/home.py debug-inventory`.
"""

# Login as root.
rtx4090_rtx5070ti = [("your-rtx4090-box.invalid", {"ssh_user": "root"})]

# Login as another user, with sudo; pyinfra asks for a password where sudo needs one.
rtx4070 = [("your-rtx4070-box.invalid", {"ssh_user": "you", "_sudo": True})]

# ssh uses your agent and default keys; for another key, add `"ssh_key": "~/.ssh/boxes"`.
rtx_16gb = [("your-16gb-box.invalid", {"ssh_user": "root"})]

# A name for the log, with a separate address and port for ssh.
rx7900xt = [("your-rx7900xt-box", {"ssh_hostname": "your-rx7900xt-box.invalid", "ssh_port": 22, "ssh_user": "root"})]
