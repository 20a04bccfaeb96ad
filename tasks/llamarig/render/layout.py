"""Paths on a box, and names of its units."""

from __future__ import annotations

PROGRAMS = "/opt/llamarig/lib"
"""A copy of llamarig/remote, the programs that run on the box."""
RELEASES = "/opt/llamarig/llama.cpp"
CUDA = "/opt/llamarig/cuda"
HUB_VENV = "/opt/llamarig/hub"
FRONT_VENV = "/opt/llamarig/front"
"""What the front runs on."""
FRONT = "/etc/llamarig/front"
"""Settings of the front, and hashes of its clients' keys."""
BIN = "/opt/llamarig/bin"
PYTHON = f"{BIN}/python3"
"""A link to the Python that runs these programs: the distribution's, or one of those below."""
CPYTHON = "/opt/llamarig/cpython"
"""Pythons installed by uv, for a box whose distribution has none that is new enough."""
EMPTY_ROOT = "/opt/llamarig/root"
"""The root directory of units and dry runs; what they need is bound into it (render/sandbox.py)."""
UV = f"{CPYTHON}/uv"
"""uv itself, removed after use."""
STATE = "/var/lib/llamarig"
WORK = f"{STATE}/work"
"""Sources and object files of builds; kept, so that an interrupted build continues."""
MODELS = f"{STATE}/models"
JOBS = f"{STATE}/jobs"
PROOFS = f"{STATE}/proofs"
SIMULATED = f"{STATE}/simulated"
DRIVER_LOAD = f"{STATE}/driver-load"
"""In which boot a deploy last tried to load the NVIDIA driver's module, and of which packages."""
"""The backend that simulates GPUs for dry runs, compiled for each llama.cpp commit that plans with it."""
HEADERS = f"{STATE}/headers"
"""Headers of models that are planned before they are downloaded: sparse files of the real size."""
CACHE = "/var/cache/llamarig"
DIRECTORIES = (BIN, EMPTY_ROOT, WORK, MODELS, JOBS, PROOFS, SIMULATED, HEADERS, CACHE, RELEASES)
"""Created by a deploy, owned by root, readable by all; jobs write only below them."""
UNITS = "/etc/systemd/system"
PRESETS = "/etc/llamarig/presets"
GPUS_UNIT = "llamarig_gpus.service"
"""With an underscore, which no model's name has: `llamarig-*` are the units of models."""
SYSCTL_FILE = "/etc/sysctl.d/90-llamarig.conf"
UDEV_FILE = "/etc/udev/rules.d/99-llamarig.rules"
"""Only where another udev rule sets the same as SYSCTL_FILE: udev applies its rules later, in the order of names."""
SECRETS = "/run/llamarig"
"""In memory; holds a secret between the control machine and a unit."""
USER = "llamarig"
CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
"""The certificates of Debian, Ubuntu and Arch, with those that the owner added."""


def unit_name(model: str) -> str:
    """The systemd unit that serves a model."""
    return f"llamarig-{model}.service"


def job_unit(name: str) -> str:
    """Prefix of the transient units of a job; each run appends its own part. No job's name has an underscore."""
    return f"llamarig-job-{name}_"


def model_directory(repo: str, commit: str) -> str:
    """Directory of the files of one revision of a Hub repository, which keep their paths in that repository."""
    return f"{MODELS}/{repo}/{commit}"
