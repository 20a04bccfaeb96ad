"""Which quant of a Hub repository fits which box, with which context. Changes nothing that serves."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pyinfra.api.command import FunctionCommand
from pyinfra.api.host import Host
from pyinfra.api.operation import operation
from pyinfra.api.state import State
from pyinfra.context import host, state

from llamarig.commands.choose_text import (
    ChoiceOptions,
    OptionError,
    RepositoryAnswer,
    answer,
    build_name,
    memory_words,
    template,
)
from llamarig.commands.read_hardware import read_hardware
from llamarig.declare.model import Model
from llamarig.declare.rig import Rig
from llamarig.engine.hub_quants import HubRepositories, QuantHeader, Repository
from llamarig.engine.hub_token import HubError
from llamarig.engine.item import Commands
from llamarig.engine.refuse import false_if_unanswered, refuse, report, while_answered
from llamarig.engine.run import ask, conclude, of_host, run
from llamarig.engine.screen import say
from llamarig.facts.simulated_gpus import IntactSimulatedGpus
from llamarig.items.box_for_quants import BoxForQuants, rates, read_box, speeds
from llamarig.items.dry_run_box import Batches, DryRunBox, placed_headers
from llamarig.items.placements import PlanError
from llamarig.items.simulated_gpus import compile_simulations, simulation_directory
from llamarig.placement.dry_run import server_outputs
from llamarig.placement.quant_choice import QuantRow, QuantShape
from llamarig.placement.quant_memory import QuantRequest, at_contexts, contexts_up_to
from llamarig.placement.side_by_side import side_by_side
from llamarig.records.bench_ledger import read_ledger
from llamarig.records.store import RecordError
from llamarig.survey.propose import proposal
from llamarig.survey.serve_settings import settings_of_hardware, settings_of_models


@operation()
@while_answered
def box_read(rig: Rig, data: Mapping[str, Any]) -> Commands:
    """Read what the box has for a model, and for dry runs; of all boxes before any of them needs another."""
    if not state.is_executing:
        return
    try:
        build = build_name(rig, ChoiceOptions.of(data))
        found = read_box(rig, build, _settings(rig, build))
    except OptionError as error:
        yield from refuse(str(error))
        return
    run().dry_run_boxes[host.name] = found
    if of_host().unanswered:
        yield FunctionCommand(lambda state, host: False, [], {})
        return
    host.noop("read")


def _settings(rig: Rig, build: str) -> Mapping[str, Any]:
    """Fields of ``serve(...)`` that models need on the current host, as its models or its hardware have them."""
    of_models = settings_of_models(rig, build)
    if of_models is not None or rig.simulated_gpus:
        return of_models or {}
    hardware = read_hardware()
    if hardware is None:
        return {}
    found = proposal(hardware)
    settings = settings_of_hardware(found)
    if found.builds[0].backend == next(each.backend for each in rig.builds if each.name == build):
        return settings
    return {name: value for name, value in settings.items() if name in ("threads", "cpu_affinity")}


@operation()
@while_answered
def simulation_compiled(rig: Rig, takeover: bool = False) -> Commands:
    """Compile the simulated cards on a box that makes dry runs for a box with cards, where it has none yet."""
    if not state.is_executing:
        yield FunctionCommand(lambda state, host: True, [], {})
        return
    boxes: dict[str, BoxForQuants] = run().dry_run_boxes
    makes_dry_runs_for = [box for name, box in boxes.items() if _planner(boxes, name) is boxes[host.name]]
    planner = boxes[host.name].planner
    if planner is None or not any(box.cards for box in makes_dry_runs_for):
        host.noop("no dry run needs simulated cards here")
        return
    directory = simulation_directory(planner.build)
    if directory in ask(IntactSimulatedGpus, directories=[directory]):
        host.noop("the simulated cards are there")
        return
    say(host, "compiling the simulation of graphics cards, once for this llama.cpp: a minute or two")
    yield from compile_simulations(rig, [planner.build], takeover=takeover)


@operation()
@while_answered
def quants_chosen(rig: Rig, data: Mapping[str, Any]) -> Commands:
    """Show the table of each repository, and the quant and context that the rule chooses.

    :param data: the values of ``--data``, by their names
    """
    yield FunctionCommand(_choose, [rig, dict(data)], {})


def _planner(boxes: dict[str, BoxForQuants], name: str) -> BoxForQuants | None:
    """The box that makes the dry runs for one: itself, or the first of this run that can; None where there is none."""
    active = [each.name for each in state.inventory if each in state.active_hosts]
    able = [boxes[each] for each in (name, *active) if each in boxes and boxes[each].planner is not None]
    return able[0] if able else None


@false_if_unanswered
def _choose(state: State, host: Host, rig: Rig, data: dict[str, Any]) -> bool:
    boxes: dict[str, BoxForQuants] = run().dry_run_boxes
    box, planning = boxes[host.name], _planner(boxes, host.name)
    if planning is None or planning.planner is None:
        report(host, _no_release(box))
        return False
    try:
        options = ChoiceOptions.of(data)
        models = [
            template(rig, options, repo, box.build.name, box.settings, gpus=len(box.cards)) for repo in options.repos
        ]
        repositories = [_repository(host, rig, model, options) for model in models]
        began = time.monotonic()
        answers, batches = _answers(host, rig, box, planning.planner, models, repositories, options)
    except (HubError, OptionError, PlanError) as error:
        report(host, str(error))
        return False
    seconds = time.monotonic() - began
    by = "" if planning is box else f" of {planning.planner.host.name}"
    lines = [memory_words(box.cards, box.ram_available_mib)]
    for each in answers:
        lines += [each.headline] * (len(answers) > 1)
        lines += [f"  {line}" for line in each.lines]
    lines += [*box.notes, rates(rig, box)[1]]
    commands = "one command" if batches.commands == 1 else f"{batches.commands} commands"
    lines.append(
        f"by {batches.runs} dry runs of llama.cpp {planning.planner.commit}{by} in {commands} ({seconds:.0f} s)"
    )
    pasted = [each.paste for each in answers if each.paste]
    if pasted:
        lines += ["to declare it, paste this into the models of the box, then run deploy.py:", *pasted]
    first = answers[0].headline if len(answers) == 1 else f"{len(pasted)} of {len(answers)} repositories fit"
    conclude(host, first, *lines)
    return True


def _no_release(box: BoxForQuants) -> str:
    if box.why_no_planner:
        return f"{box.why_no_planner}: run deploy.py, which renews them, then this again"
    return (
        "no box of this run has a release of llama.cpp to plan with: build one, on any box that the inventory lists, "
        "with `pyinfra -y INVENTORY deploy.py --limit BOX`; it may be this machine, as @local, and a build with "
        'backend="cpu" is enough. Then run this again'
    )


def _repository(host: Host, rig: Rig, model: Model, options: ChoiceOptions) -> Repository:
    known = run()
    if known.hub_repositories is None:
        known.hub_repositories = HubRepositories()
    token = known.hub_tokens.of(rig.hub)
    found: Repository = known.hub_repositories.read(model, rig.hub.endpoint, token, options.quants)
    size = sum(header.quant.size for header in found.headers)
    count = f"{len(found.headers)} {'quant' if len(found.headers) == 1 else 'quants'}"
    cost = (
        f"{found.fetched / 1e6:.1f} MB of {size / 1e9:.1f} GB fetched for their headers"
        if found.fetched
        else "their headers are known from an earlier run"
    )
    say(host, f"{model.repo} at {found.quants.commit[:12]}: {count}, {cost}")
    for left_out in found.quants.left_out:
        say(host, f"    not a model: {left_out}")
    return found


@dataclass(frozen=True)
class _Candidate:
    """A quant whose dry runs are to be made, and the names of its headers on the box."""

    model: Model
    header: QuantHeader
    names: tuple[str, str]


def _answers(
    host: Host,
    rig: Rig,
    box: BoxForQuants,
    planner: DryRunBox,
    models: Sequence[Model],
    repositories: Sequence[Repository],
    options: ChoiceOptions,
) -> tuple[list[RepositoryAnswer], Batches]:
    """Make the dry runs of all repositories together, and say what each comes to.

    :raises PlanError: where the box cannot make them
    """
    candidates: dict[tuple[int, int], _Candidate] = {}
    files: dict[str, tuple[bytes, int]] = {}
    for number, (model, repository) in enumerate(zip(models, repositories, strict=True)):
        for index, header in enumerate(repository.headers):
            if header.problem or _unknown(header, planner):
                continue
            names = (f"{number}-{index}.gguf", f"{number}-{index}-short.gguf")
            outputs, ubatch = server_outputs(model), min(model.serve.ubatch, model.serve.batch)
            files |= {names[0]: (header.data, header.size), names[1]: header.shortened(outputs, ubatch)}
            candidates[number, index] = _Candidate(model, header, names)
    contexts = [
        (options.context,) if options.context else contexts_up_to(_first_header(repository).header.metadata)
        for repository in repositories
    ]
    with placed_headers(planner, box.cards, files) as batches:
        requests = [_request(box, planner, each, batches.directory) for each in candidates.values()]
        steps = [
            at_contexts(request, contexts[number]) for (number, _), request in zip(candidates, requests, strict=True)
        ]
        found = dict(zip(candidates, batches.perform(side_by_side(steps)), strict=True))
    try:
        ledger = read_ledger(rig.bench_ledger)
    except RecordError as error:
        say(host, f"no speed is predicted: {error}")
        ledger = []
    rate, _ = rates(rig, box)
    answers = []
    for number, (model, repository) in enumerate(zip(models, repositories, strict=True)):
        rows = []
        for index, header in enumerate(repository.headers):
            quant = header.quant
            row = QuantRow(quant.label, quant.size, problem=header.problem or _unknown(header, planner))
            if (number, index) in found:
                row = replace(row, at=tuple(found[number, index]), shape=QuantShape.of(header.header, quant.size))
                row = replace(
                    row, speed=speeds(rig, box, ledger, header, row.best), download_s=box.download_s(quant, rate)
                )
            rows.append(row)
        answers.append(answer(rig, model, [header.quant for header in repository.headers], rows, box.device_names))
    return answers, batches


def _first_header(repository: Repository) -> QuantHeader:
    return next(header for header in repository.headers if not header.problem)


def _unknown(header: QuantHeader, planner: DryRunBox) -> str:
    architecture = str(header.header.metadata.get("general.architecture"))
    if header.problem or not planner.architectures or architecture in planner.architectures:
        return ""
    return f"llama.cpp {planner.commit} does not know its architecture, {architecture}: declare a newer commit"


def _request(box: BoxForQuants, planner: DryRunBox, candidate: _Candidate, directory: str) -> QuantRequest:
    paths = [f"{directory}/{name}" for name in candidate.names]
    return QuantRequest(
        model=candidate.model,
        header=candidate.header.header,
        flags=planner.flags,
        header_path=paths[0],
        short_header_path=paths[1],
        ram_available_mib=box.ram_available_mib,
        plan=box.plan_request(candidate.model, candidate.header.header, planner, paths) if box.cards else None,
    )
