"""Runs on a box in the place of its sftp-server: a slow line, or one that damages what is sent over it.

SFTP (draft-ietf-secsh-filexfer-02, chapter 3): each packet is its length in four bytes, its type in one, then the rest.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

MODE = Path("/run/bad-line")
REAL = "/usr/lib/openssh/sftp-server.real"
WRITE = 6


def main() -> None:
    mode = MODE.read_text().strip()
    real = subprocess.Popen([REAL, *sys.argv[1:]], stdin=subprocess.PIPE)
    assert real.stdin is not None
    while len(length := sys.stdin.buffer.read(4)) == 4:
        packet = bytearray(sys.stdin.buffer.read(int.from_bytes(length, "big")))
        # Only files of some size: a job's few hundred bytes of JSON come in one small packet.
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
