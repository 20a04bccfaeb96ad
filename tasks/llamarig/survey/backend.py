"""Which builds serve a box's cards, with which CUDA toolkit and driver; else Vulkan, or the processor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from llamarig.declare.build import Build, GitSource
from llamarig.declare.host_policy import NvidiaDriver
from llamarig.facts.gpus import WSL
from llamarig.items.cuda_support import WSL_REMEDY, driver_remedy, oldest_driver
from llamarig.items.driver_steps import next_step
from llamarig.survey.cards import Card, has_integrated_graphics, nvidia_cards, other_cards
from llamarig.survey.hardware import DRIVERS, Hardware
from llamarig.survey.proposal import Proposal
from llamarig.survey.toolkit import Needs, compiler_remedy, cuda_build, misfits, newest_from_pypi

_FIRST_OPEN_MODULE = 75
"""The open kernel module is for RTX 20xx and newer (declare/host_policy.py)."""
_DRIVER_OF_13 = oldest_driver((13, 0))


def of_cards(hardware: Hardware) -> Proposal:
    """The builds for the cards of a box, without what concerns the rest of the machine."""
    if hardware.gpus.wsl:
        why = f"{WSL[0].upper()}{WSL[1:]}"
        return Proposal(
            (_cpu(),),
            notes={"build": (f"{why}.",)},
            remarks=(f"WSL2: only the processor serves; for the GPU, {WSL_REMEDY.partition(', or')[0]}",),
        )
    nvidia, others = nvidia_cards(hardware), other_cards(hardware)
    if nvidia:
        return _of_nvidia(hardware, nvidia, others)
    if others:
        return _of_vulkan(hardware, others)
    if has_integrated_graphics(hardware):
        note = 'Intel graphics share the RAM; backend="vulkan" would compute with them: time both with tasks/bench.py.'
        return Proposal((_cpu(),), notes={"build": (note,)})
    return Proposal((_cpu(),))


def _of_nvidia(hardware: Hardware, cards: list[Card], others: list[Card]) -> Proposal:
    needs = _needs(hardware, cards)
    served, build = _served(cards, needs)
    if build is None:
        return _without_cuda(hardware, cards, needs)
    served = sorted(served, key=cards.index)
    unused = tuple(card for card in cards if card not in served)
    driver, driver_notes, remarks = _driver(hardware, build, served)
    if any(card.shares_ram and not card.uuid for card in served):
        jetson = "a Jetson's GPU is not open to the units of llamarig yet"
        driver_notes, remarks = (*driver_notes, f"{jetson[0].upper()}{jetson[1:]}."), (*remarks, jetson)
    more = tuple(card for card in others if not card.shares_ram and card.answers)
    builds = (build, _vulkan()) if more else (build,)
    notes = {"build": _toolkit_note(build, needs), "driver": driver_notes, "cards": _unused_notes(unused, build, needs)}
    if more:
        notes["build"] += (f"The second build is for {_listed(more)}.",)
    return Proposal(
        builds,
        tuple(served),
        unused=unused,
        nvidia_driver=driver,
        notes=notes,
        remarks=(*remarks, *(f"{card} does not serve: {_why_unused(card, build, needs)}" for card in unused)),
    )


def _needs(hardware: Hardware, cards: Sequence[Card]) -> Needs:
    version = hardware.gpus.gpus[0].driver if hardware.gpus.gpus else hardware.gpus.module
    series = version.partition(".")[0]
    architectures = tuple(sorted({card.architecture for card in cards if card.architecture}, key=_number))
    return Needs(architectures, int(series) if series.isdecimal() else 0, hardware.compilers, hardware.toolkits)


def _number(architecture: str) -> int:
    return int("".join(character for character in architecture if character.isdigit()) or 0)


def _served(cards: Sequence[Card], needs: Needs) -> tuple[list[Card], Build | None]:
    """The cards that one toolkit compiles for, the build, or no card: of two generations, the newer one is kept."""
    left = list(needs.architectures)
    while left:
        build = cuda_build(replace(needs, architectures=tuple(left)))
        if build is not None:
            return [card for card in cards if card.architecture in left], build
        left = left[1:]
    return [], None


def _without_cuda(hardware: Hardware, cards: Sequence[Card], needs: Needs) -> Proposal:
    """NVIDIA's cards that no toolkit fits yet: Vulkan where their driver has it, else the processor."""
    names = _listed(cards)
    if not needs.architectures:
        why = "No driver answers, and the PCI database does not know the card"
        remark = "no driver answers, and the card cannot be told: install its driver, delete the file, survey again"
        return Proposal(
            (_cpu(),),
            unused=tuple(cards),
            notes={"build": (f"{why}: the processor serves until it does.",)},
            remarks=(remark,),
        )
    newest = newest_from_pypi(needs.architectures)
    if newest is not None and (needs.driver or 0) >= _DRIVER_OF_13:
        why, todo = misfits(newest, needs), compiler_remedy(newest, needs)
    elif newest is not None:
        why = f"Driver {needs.driver} runs no CUDA 13, and no CUDA 12 toolkit is installed that fits"
        todo = f"install driver {_DRIVER_OF_13} or newer, or a CUDA 12 toolkit"
    else:
        why = f"CUDA 13 does not compile for {names}, and no CUDA 12 toolkit is installed that fits"
        todo = "install a CUDA 12 toolkit (Debian 13: `apt install nvidia-cuda-toolkit`, whose path is /usr)"
    alternative = newest or Build(
        name="cuda", source=GitSource(), architectures=needs.architectures, cuda_toolkit="/usr"
    )
    with_vulkan = bool(hardware.gpus.gpus) and hardware.bus.nvidia_vulkan
    build = _vulkan() if with_vulkan else _cpu()
    meanwhile = "Vulkan" if with_vulkan else "the processor alone"
    if not hardware.gpus.gpus and hardware.gpus.problem:
        todo = f"install NVIDIA's driver, and {todo.removeprefix('install ')}"
    return Proposal(
        (build,),
        tuple(cards) if with_vulkan else (),
        unused=() if with_vulkan else tuple(cards),
        alternative=alternative,
        notes={
            "build": (
                f"{why}.",
                f"Until you have one, {meanwhile} serves. To use CUDA, {todo}, and declare this in its place:",
            )
        },
        remarks=(f"{names}: {meanwhile} serves, not CUDA: {todo}",),
    )


def _toolkit_note(build: Build, needs: Needs) -> tuple[str, ...]:
    version = build.toolkit_version or needs.installed[build.cuda_toolkit or ""]
    parts = [f"driver {needs.driver} ({oldest_driver(version)} or newer)"] if needs.driver else []
    if needs.compilers.glibc:
        parts.append("glibc {}.{}".format(*needs.compilers.glibc))
    if needs.compilers.gcc:
        parts.append(f"g++ {needs.compilers.gcc}")
    name = ".".join(map(str, version))
    return (f"CUDA {name} fits {', '.join(parts)}.",) if parts else ()


def _why_unused(card: Card, build: Build, needs: Needs) -> str:
    if not card.architecture:
        return "its architecture is not known"
    version = build.toolkit_version or needs.installed.get(build.cuda_toolkit or "")
    return build.toolkit_refusal([card.architecture], version) or "no toolkit compiles for it and the others"


def _unused_notes(unused: Sequence[Card], build: Build, needs: Needs) -> tuple[str, ...]:
    if not unused:
        return ()
    lines = [f"Not served: {card}. {_why_unused(card, build, needs)}." for card in unused]
    return (*lines, "So each model names its cards in serve(gpus=...).")


def _driver(
    hardware: Hardware, build: Build, cards: Sequence[Card]
) -> tuple[NvidiaDriver | None, tuple[str, ...], tuple[str, ...]]:
    """The driver to declare, comments, and remarks; nothing where one answers."""
    state = hardware.gpus
    if state.gpus:
        return None, (), ()
    problem = state.problem or "nvidia-smi lists no card"
    least = oldest_driver(build.toolkit_version or hardware.toolkits.get(build.cuda_toolkit or "", (0, 0)))
    if not state.module and "no nvidia-smi" in problem and (driver := _offered_driver(hardware, build, cards)):
        upgrade = " On Arch this upgrades the whole system." if hardware.driver.family == "arch" else ""
        words = f"the NVIDIA driver{f' {driver.series}' if driver.series else ''}"
        return (
            driver,
            (f"No driver answers ({problem}): a deploy installs and holds {words}.{upgrade}",),
            (f"no driver answers: a deploy would install {words} of the distribution",),
        )
    remedy = driver_remedy(state)
    if "no nvidia-smi" in problem:
        remedy = f"install driver {least} or newer yourself (group_data/README.md)"
    return None, (f"No driver answers ({problem}): {remedy}.",), (f"no driver answers ({problem}): {remedy}",)


def _offered_driver(hardware: Hardware, build: Build, cards: Sequence[Card]) -> NvidiaDriver | None:
    """The first driver that this box's distribution offers for these cards and this toolkit."""
    is_old = any(0 < card.number < _FIRST_OPEN_MODULE for card in cards)
    for driver in DRIVERS:
        if (driver.kernel_module == "proprietary") != is_old or (driver.series is not None) != (
            hardware.driver.family == "ubuntu"
        ):
            continue
        step = next_step(driver, hardware.driver, [build], hardware.toolkits)
        if step is not None and step.kind in ("components", "install", "hold", "load"):
            return driver
    return None


def _of_vulkan(hardware: Hardware, cards: list[Card]) -> Proposal:
    notes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    if all(card.shares_ram for card in cards):
        shared = max((card.shared_mib for card in hardware.gpus.amd), default=0)
        of_ram = f", of which the kernel lets them use {shared / 1024:.0f} GiB" if shared else ""
        notes = (f"Its graphics share the RAM{of_ram}: auto() plans with one budget for both.",)
        return Proposal((_vulkan(), _cpu()), tuple(cards), notes={"build": notes})
    if missing := [card for card in cards if not card.answers]:
        words = f"amdgpu does not drive {_listed(missing)}"
        notes, remarks = (f"{words}: look at `dmesg | grep amdgpu`.",), (f"{words}: look at `dmesg | grep amdgpu`",)
    if any(card.vendor == "other" for card in cards):
        notes += ("Cards of Intel by Vulkan were never tried with llamarig.",)
    return Proposal((_vulkan(),), tuple(cards), notes={"build": notes}, remarks=remarks)


def _cpu() -> Build:
    return Build(name="cpu", source=GitSource(), backend="cpu")


def _vulkan() -> Build:
    return Build(name="vulkan", source=GitSource(), backend="vulkan")


def _listed(cards: Sequence[Card]) -> str:
    return " + ".join(map(str, cards))
