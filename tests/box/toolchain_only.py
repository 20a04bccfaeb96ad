"""The toolchain of a rig and nothing else; run by test_cuda_build.py, since a whole CUDA build takes an hour here."""

from tasks.connection import send_at_once
from tasks.host import host_settings
from tasks.toolchain import toolchain

send_at_once()
host_settings()
toolchain()
