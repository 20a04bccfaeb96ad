"""A box, top to bottom: `pyinfra inventory/home.py deploy.py`."""

from pyinfra.context import config

from tasks.connection import send_at_once
from tasks.host import host_settings
from tasks.llama_cpp import llama_cpp
from tasks.models import models
from tasks.services import services
from tasks.toolchain import toolchain

config.REQUIRE_PYINFRA_VERSION = "~=3.10"

send_at_once()
host_settings()
toolchain()
llama_cpp()
models()
services()
