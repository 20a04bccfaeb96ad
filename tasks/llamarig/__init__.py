"""Declarative provisioning of llama.cpp servers, on pyinfra."""
