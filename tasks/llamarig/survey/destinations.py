"""Which boxes share a file, and what the file is called."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from llamarig.survey.hardware import Hardware
from llamarig.survey.proposal import Proposal, merged
from llamarig.survey.words import group_name


@dataclass(frozen=True)
class Undeclared:
    """A box without a declared rig. ``groups``: of its owner's, in the inventory's order."""

    host: str
    groups: tuple[str, ...]
    hardware: Hardware
    proposal: Proposal
    has_data: bool = False
    """Whether the inventory has data for it beside its name."""


@dataclass(frozen=True)
class Destination:
    """A file to write. ``listed``: whether the inventory has these hosts in a group of this name already.

    ``exists``: whether the name is taken by a file or a group that declares something, so that nothing is written.
    """

    name: str
    hosts: tuple[str, ...]
    proposal: Proposal
    hardware: Hardware
    """Of the first host."""
    listed: bool
    exists: bool = False
    with_data: tuple[str, ...] = ()
    """Those of the hosts for which the inventory has data beside their names."""

    @property
    def inventory_line(self) -> str:
        """What the inventory has to say."""
        hosts = (f'("{host}", {{...}})' if host in self.with_data else f'"{host}"' for host in self.hosts)
        return f"{self.name} = [{', '.join(hosts)}]" + (" with its data as it is" if self.with_data else "")


def destinations(boxes: Sequence[Undeclared], taken: Collection[str], members: Mapping[str, int]) -> list[Destination]:
    """One file for each kind of hardware.

    It has the name of the boxes' group where all boxes of the group are alike, and the name is free. Else a name is
    proposed.

    :param taken: names of files in group_data/
    :param members: group -> how many hosts of this run it has that declare no rig
    """
    found: list[Destination] = []
    left = list(boxes)
    while left:
        first = left[0]
        alike = [box for box in left if box.proposal.kind == first.proposal.kind]
        group = _group_of(alike, taken, members)
        if group:
            alike = [box for box in alike if group in box.groups]
        left = [box for box in left if box not in alike]
        found.append(
            Destination(
                group,
                tuple(box.host for box in alike),
                merged([box.proposal for box in alike]),
                first.hardware,
                listed=bool(group),
                with_data=tuple(box.host for box in alike if box.has_data),
            )
        )
    return _named(found, taken)


def _group_of(alike: Sequence[Undeclared], taken: Collection[str], members: Mapping[str, int]) -> str:
    """The first box's first group in which all boxes are of this kind, and whose name is free; empty for none."""
    for group in alike[0].groups:
        if group not in taken and members.get(group, 0) == sum(group in box.groups for box in alike):
            return group
    return ""


def _named(found: Sequence[Destination], taken: Collection[str]) -> list[Destination]:
    """The same, with a proposed name where no group has one."""
    names = [one.name or group_name(one.hardware, one.proposal) for one in found]
    named: list[Destination] = []
    for one, name in zip(found, names, strict=True):
        if not one.name and names.count(name) > 1:
            name = group_name(one.hardware, one.proposal, with_memory=True)
        used = {other.name for other in named}
        number = 2
        base = name
        while name in used:
            name, number = f"{base}_{number}", number + 1
        named.append(replace(one, name=name, exists=name in taken))
    return named
