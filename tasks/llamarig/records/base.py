"""The base of every record that is kept in a file: its schema version, and its name in messages."""

from __future__ import annotations

from typing import ClassVar

from llamarig.declare.base import Declaration

VERSION_KEY = "schema_version"
"""Top-level key of a file (of a line, in a JSON-lines file) that holds the schema version; 1 where it is missing."""


class StoredRecord(Declaration):
    """A frozen pydantic model that `records/store.py` reads and writes."""

    version: ClassVar[int] = 1
    """Schema version. Raise it when a field changes its meaning or is removed, not for a new optional field."""
    title: ClassVar[str] = "record"
    """Name of the file's content in messages, for example `model lock`."""
