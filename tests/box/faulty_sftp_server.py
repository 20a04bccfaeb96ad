"""Replacement for a box's sftp-server that delays uploads ("slow") or changes one byte of an upload ("damage").

SFTP (draft-ietf-secsh-filexfer-02, section 3): a packet is four bytes of length, one byte of type, and the payload.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

MODE = Path("/run/sftp-fault")
REAL = "/usr/lib/openssh/sftp-server.real"
WRITE = 6


def main() -> None:
    mode = MODE.read_text().strip()
    real = subprocess.Popen([REAL, *sys.argv[1:]], stdin=subprocess.PIPE)
    assert real.stdin is not None
    while len(length := sys.stdin.buffer.read(4)) == 4:
        packet = bytearray(sys.stdin.buffer.read(int.from_bytes(length, "big")))
        # Only large packets, so that a job's JSON of a few hundred bytes arrives intact.
        if packet and packet[0] == WRITE and len(packet) > 10_000:
            if mode == "slow":
                time.sleep(0.05)
            elif mode == "damage":
                packet[-1] ^= 1
                mode = ""
        real.stdin.write(length + packet)
        real.stdin.flush()
    real.stdin.close()
    real.wait()


if __name__ == "__main__":
    main()
