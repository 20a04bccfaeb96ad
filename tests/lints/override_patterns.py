"""Patterns of override rules that Python and C++ read in different ways, or not at all."""

from __future__ import annotations

NOT_CPP = (
    "(",
    "x)",
    "[a",
    "*a",
    "[z-a]",
    "(a)\\2",
    "\\xg",
    "(?i)exps",
    "(?P<n>exps)",
    "(?<=ffn_)up",
    "(?#all)exps",
)
"""With these, llama.cpp does not load a model."""
NOT_PYTHON = ("[]", "[^]", "ex\\qps", "a**")
"""These it takes."""
