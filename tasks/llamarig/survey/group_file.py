"""The text of a group's file: a proposal as typed declarations with comments, for its owner to read and to keep."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from llamarig.adopt.call import literal
from llamarig.declare.build import LLAMA_CPP_COMMIT, Build
from llamarig.declare.host_policy import GpuCard, NvidiaDriver
from llamarig.items.cards_in_use import vendor_of
from llamarig.remote.shared.printable import printable
from llamarig.survey.cards import Card, architecture_of
from llamarig.survey.proposal import Proposal
from llamarig.survey.serve_settings import arguments, settings_of_hardware

_WIDTH = 120


@dataclass(frozen=True)
class FileHead:
    """What the first lines of the file say. ``imports_commit``: whether group_data/all.py names llama.cpp's commit."""

    title: str
    hosts: tuple[str, ...]
    imports_commit: bool = True


def file_text(proposal: Proposal, head: FileHead) -> str:
    """Python of a file in group_data/."""
    hosts = ", ".join(map(_plain, head.hosts))
    lines = [
        *_docstring(_plain(head.title), f"As tasks/survey.py found {hosts}. It never writes this file again."),
        "",
        "from llamarig import declare as d",
        "",
        *(("from group_data.all import llama_cpp_commit", "") if head.imports_commit else ()),
        "rig = d.rig(",
        "    builds=[",
        *_comment(proposal.notes.get("build", ()), 8),
        *(line for build in proposal.builds for line in _build(build, proposal.cards, 8, head)),
        *(_commented(_build(proposal.alternative, (), 0, head), 8) if proposal.alternative else ()),
        "    ],",
        *_models(proposal),
        *_host(proposal),
        ")",
    ]
    return "".join(f"{line}\n" for line in lines)


def _docstring(head: str, more: str) -> list[str]:
    """A docstring of one line and a paragraph. Texts of the box cannot end it."""
    first, rest = (text.replace("\\", "/").replace('"', "'") for text in (head, more))
    lines = textwrap.wrap(f"{first}.", _WIDTH - 3, break_long_words=False, break_on_hyphens=False)
    lines[0] = f'"""{lines[0]}'
    return [*lines, "", *textwrap.wrap(rest, _WIDTH, break_long_words=False, break_on_hyphens=False), '"""']


def _plain(text: str) -> str:
    """Text of a box on one line of a comment or a docstring."""
    return printable(text).replace("\t", " ")


def _quoted(text: str) -> str:
    return json.dumps(_plain(text))


def _comment(sentences: Iterable[str], indent: int) -> list[str]:
    prefix = " " * indent + "# "
    return [
        line
        for sentence in sentences
        for line in textwrap.wrap(
            _plain(sentence),
            _WIDTH,
            initial_indent=prefix,
            subsequent_indent=prefix,
            break_long_words=False,
            break_on_hyphens=False,
        )
    ]


def _commented(lines: Iterable[str], indent: int) -> list[str]:
    return [f"{' ' * indent}# {line}" for line in lines]


def _tuple(values: Sequence[str]) -> str:
    return f"({', '.join(map(_quoted, values))}{',' if len(values) == 1 else ''})"


# --- builds -----------------------------------------------------------------------------------------------------------


def _build(build: Build, cards: Sequence[Card], indent: int, head: FileHead) -> Iterator[str]:
    commit = "llama_cpp_commit" if head.imports_commit else _quoted(LLAMA_CPP_COMMIT)
    names: dict[str, list[str]] = {}
    for card in cards:
        names.setdefault(card.architecture, []).append(_plain(card.name or "NVIDIA card"))
    comment = ", ".join(dict.fromkeys(name for one in build.architectures for name in names.get(one, ())))
    rows = [
        f"name={_quoted(build.name)},",
        f"source=d.git_source(commit={commit}),",
        *([f"backend={_quoted(build.backend)},"] if build.backend != "cuda" else ()),
        *(
            [f"architectures={_tuple(build.architectures)},{f'  # {comment}' if comment else ''}"]
            * bool(build.architectures)
        ),
        *([f"cuda_toolkit={_quoted(build.cuda_toolkit)},"] if build.cuda_toolkit else ()),
    ]
    space = " " * indent
    yield f"{space}d.build("
    yield from (f"{space}    {row}" for row in rows)
    yield f"{space}),"


# --- models -----------------------------------------------------------------------------------------------------------


def _models(proposal: Proposal) -> Iterator[str]:
    yield "    models=["
    yield from _comment(
        (
            "No model yet: a deploy only builds llama.cpp. What fits here, and the line to paste, is printed by",
            "  pyinfra -y inventory/home.py tasks/choose.py --data repo=unsloth/Qwen3-30B-A3B-GGUF",
            "Or begin with this one, which may not fit, without the comment signs:",
        ),
        8,
    )
    yield from _commented(example_model(proposal), 8)
    yield "    ],"


def example_model(proposal: Proposal) -> list[str]:
    """A model with the settings that models need on this hardware."""
    serve = [
        "port=8080,",
        "context=32768,",
        *(f"{name}={literal(value)}," for name, value in arguments(settings_of_hardware(proposal)).items()),
    ]
    return [
        "d.model(",
        '    name="qwen3-30b-a3b",',
        '    repo="unsloth/Qwen3-30B-A3B-GGUF",',
        '    quant="Q4_K_M",',
        f"    build={_quoted(proposal.builds[0].name)},",
        "    serve=d.serve(",
        *(f"        {line}" for line in serve),
        "    ),",
        "),",
    ]


# --- the machine ------------------------------------------------------------------------------------------------------


def _host(proposal: Proposal) -> Iterator[str]:
    notes = proposal.notes
    rows: list[str] = []
    cards = _gpu_cards(proposal)
    if cards or "cards" in notes:
        rows += _comment(notes.get("cards", ()), 8)
    if cards:
        rows += _comment(("A card that is missing, or another one, is reported. NVIDIA's in nvidia-smi's order.",), 8)
        alone = f"        gpus=({cards[0]},),"
        many = ["        gpus=(", *(f"            {card}," for card in cards), "        ),"]
        rows += [alone] if len(cards) == 1 and len(alone) <= _WIDTH else many
    rows += _comment(notes.get("driver", ()), 8)
    if proposal.nvidia_driver is not None:
        rows.append(f"        nvidia_driver={_driver(proposal.nvidia_driver)},")
    rows += _comment(notes.get("memory", ()), 8)
    if proposal.memory_mts is not None:
        rows.append(f"        memory_mts={proposal.memory_mts},")
    rows += _comment((*notes.get("cpu", ()), *notes.get("disk", ())), 8)
    has_value = any(not row.lstrip().startswith("#") for row in rows)
    if has_value:
        yield "    host=d.host_policy("
        yield from rows
        yield "    ),"
    else:
        yield from (row[4:] for row in rows)


def _gpu_cards(proposal: Proposal) -> list[str]:
    """All cards of the box, NVIDIA's in nvidia-smi's order; none where one has no name of its own."""
    cards = [*proposal.cards, *proposal.unused]
    nvidia = sorted((card for card in cards if card.vendor == "nvidia"), key=lambda card: card.index)
    others = [card for card in cards if card.vendor != "nvidia" and not card.shares_ram]
    if not all(map(_has_own_name, (*nvidia, *others))):
        return []
    return [
        f"d.gpu_card(name={_quoted(card.name)}{f', uuid={_quoted(card.uuid)}' if card.uuid else ''})"
        for card in (*nvidia, *others)
    ]


def _has_own_name(card: Card) -> bool:
    """Whether the audit would know the card by its name: not by that of a chip, which several cards have."""
    if len(card.name) < 2 or (card.vendor == "nvidia" and not card.answers and architecture_of(card.name)):
        return False
    return vendor_of(GpuCard(name=card.name, uuid=card.uuid or None)) == card.vendor


def _driver(driver: NvidiaDriver) -> str:
    series = f"series={_quoted(driver.series)}" if driver.series else ""
    module = 'kernel_module="proprietary"' if driver.kernel_module == "proprietary" else ""
    return f"d.nvidia_driver({', '.join(filter(None, (series, module)))})"
