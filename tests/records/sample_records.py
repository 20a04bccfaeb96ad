"""Records to write in tests: a locked model, and a timing."""

from __future__ import annotations

from llamarig.records.bench_ledger import BenchEntry, Conditions, TokenRate
from llamarig.records.model_lock import LockedFile, LockedModel


def locked_model(commit: str = "c", path: str = "m-Q4_K_M.gguf") -> LockedModel:
    """A model of one file; ``commit`` is a hexadecimal digit that the commit repeats."""
    file = LockedFile.model_construct(path=path, size=1000, sha256="5" * 64)
    return LockedModel.model_construct(repo="acme/m-GGUF", commit=commit * 40, shards=(file,))


def timing(generation: float = 50, ram_bytes_per_token: float | None = None) -> BenchEntry:
    """A timing; ``generation`` in tokens per second."""
    return BenchEntry(
        box="a",
        model="m",
        release="0c1e5709-a6a0c45d",
        flags=("--ctx-size", "8192"),
        runs=5,
        prompt=TokenRate(median=1000, lowest=990, highest=1010),
        generation=TokenRate(median=generation, lowest=generation, highest=generation),
        ram_bytes_per_token=ram_bytes_per_token,
        conditions=Conditions(date="2026-11-20T10:00:00Z", prompt_tokens=2048, generated_tokens=128),
    )
