"""What the control machine contributes to a comparison: its records, and the files it sends to boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field

from llamarig.facts.platform import Platform
from llamarig.records.model_lock import LockedModel
from llamarig.records.plan_file import MeasuredMargin, MeasuredPlacement, Plan


@dataclass(frozen=True)
class SentFile:
    """A file of this package that is copied to boxes."""

    source: str
    """Path on the control machine."""
    sha256: str


@dataclass(frozen=True)
class Builder:
    """A box that builds a release for another one."""

    absence: str = ""
    """Why it can provide nothing in this run, as a clause after its name, with the remedy; empty if it can."""
    platform: Platform = field(default_factory=Platform)
    """Empty if the box is absent."""


@dataclass(frozen=True)
class ControlMachine:
    """The records of one host and the files of this package."""

    locked: Sequence[LockedModel] | None = None
    """The lock entries of the host's models, in their order; None if one is missing."""
    lock_problem: str = ""
    """Why the model lock cannot be read; empty if it can."""
    plans: Mapping[str, Plan] = field(default_factory=dict)
    """Model name -> its plan on this host."""
    measured: Mapping[str, MeasuredPlacement] = field(default_factory=dict)
    """Model name -> the dry run of its declared placement on this host."""
    margins: Mapping[str, Sequence[MeasuredMargin]] = field(default_factory=dict)
    """Model name -> its margins measured on this host."""
    plan_problem: str = ""
    """Why the plan file cannot be read; empty if it can."""
    programs: Mapping[str, SentFile] = field(default_factory=dict)
    """Path on the box -> the program to copy there."""
    requirements: Mapping[str, str] = field(default_factory=dict)
    """File name -> text of each requirements lock of this package."""
    deep: bool = False
    """Whether to read every byte of the model files (``--data deep=1``)."""
    takeover: bool = False
    """Whether jobs of other runs that are in the way are stopped (``--data takeover=1``)."""
    wanted_releases: Mapping[str, Set[str]] = field(default_factory=dict)
    """Release directory -> the hosts of this run that need it from the box that builds it."""
    builders: Mapping[str, Builder] = field(default_factory=dict)
    """Host -> what is known of it, of those that an item names (``Item.more_inputs``)."""
    hub_token_problem: str = ""
    """Why the declared Hub token cannot be read, with the remedy; empty if it can, or if no item needs it now."""
