"""deploy.py without the distribution's packages and the Hub client: for a GPU machine that has them, and no network."""

from tasks.box import rig_of_host
from tasks.host import host_settings
from tasks.llama_cpp import llama_cpp
from tasks.models import models
from tasks.operations import gpus
from tasks.services import services

host_settings()
gpus.fit_the_builds(name="Graphics cards and builds", rig=rig_of_host())
llama_cpp()
models()
services()
