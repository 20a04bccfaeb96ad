"""Where everything lies on a box. One place, so that nothing is spelled twice."""

from __future__ import annotations

PROGRAMS = "/opt/llamarig/lib"
"""The programs of tasks/files/, which do the long work on the box."""
RELEASES = "/opt/llamarig/llama.cpp"
CUDA = "/opt/llamarig/cuda"
HUB_VENV = "/opt/llamarig/hub"
PYTHON = "/opt/llamarig/python3"
"""A link to the Python that runs our programs: the distribution's, or the one below."""
CPYTHON = "/opt/llamarig/cpython"
"""Pythons that uv brought, for a box whose distribution has none that will do."""
UV = f"{CPYTHON}/uv"
"""There only while it works."""
STATE = "/var/lib/llamarig"
WORK = f"{STATE}/work"
"""Source and object files of builds; kept, so that an interrupted build goes on where it was."""
MODELS = f"{STATE}/models"
JOBS = f"{STATE}/jobs"
PROOFS = f"{STATE}/proofs"
SIMULATED = f"{STATE}/simulated"
"""The backend that shows llama.cpp GPUs the box does not have, one compiled for each commit that plans with it."""
HEADERS = f"{STATE}/headers"
"""Headers of models that are planned for and not fetched: sparse files of the real size."""
CACHE = "/var/cache/llamarig"
DIRECTORIES = (WORK, MODELS, JOBS, PROOFS, SIMULATED, HEADERS, CACHE, RELEASES)
"""Made by deploy, root's, readable by all; jobs write below them and nowhere else."""
UNITS = "/etc/systemd/system"
PRESETS = "/etc/llamarig/presets"
GPUS_UNIT = "llamarig_gpus.service"
"""With an underscore, which no model's name has: `llamarig-*` are the models."""
SYSCTL_FILE = "/etc/sysctl.d/90-llamarig.conf"
UDEV_FILE = "/etc/udev/rules.d/99-llamarig.rules"
"""Only where another rule sets what the file above sets: udev comes later, and reads its rules by name."""
SECRETS = "/run/llamarig"
"""In memory only; what lies here is on its way to a unit."""
USER = "llamarig"
CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
"""Debian's, Ubuntu's and Arch's bundle, with what the owner added to it."""


def unit_name(model: str) -> str:
    """The systemd unit that serves a model."""
    return f"llamarig-{model}.service"


def job_unit(name: str) -> str:
    """How the transient units of a job begin; what follows is each run's own. No job's name holds the underscore."""
    return f"llamarig-job-{name}_"


def model_directory(repo: str, commit: str) -> str:
    """Where the files of one revision of a Hub repository lie, below their paths in that repository."""
    return f"{MODELS}/{repo}/{commit}"
