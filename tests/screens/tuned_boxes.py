"""The boxes of the tuner's screens: what it leaves where some settings are faster, and where none is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from llamarig.declare.rig import Rig
from llamarig.engine.item import query
from llamarig.facts.processor_topology import ProcessorTopology
from llamarig.measure.candidates import Box, candidates, combined
from llamarig.remote.measure.conditions import Conditions
from llamarig.remote.measure.paired_difference import Rule
from llamarig.remote.measure.replay import Replayed
from llamarig.remote.measure.search import Sample, Search, finals, screen
from llamarig.remote.measure.tune_job import TakenSample

from tests.screens.boxes import Described, clean


def tuned(rig: Rig) -> Described:
    """As declared; a larger ubatch and other threads are faster there, and the rest is not."""
    return _tuned(rig, {"ubatch 2048": 1.21, "threads 6": 1.04, "all": 1.27})


def tuned_for_nothing(rig: Rig) -> Described:
    """As declared, and nothing is faster."""
    return _tuned(rig, {})


def _tuned(rig: Rig, speeds: Mapping[str, float]) -> Described:
    described, model = clean(rig), rig.models[0]
    topology = "\n".join(f"{cpu},{cpu // 2},0" for cpu in range(16))
    described.box.outputs[query(ProcessorTopology)] = f"{topology}\nfast"
    box = Box(online=16, cores=8, first=frozenset(range(0, 16, 2)))
    # Without those whose flags the release of these boxes does not have.
    flags = [one for one in candidates(rig, model, box) if one.knob not in ("priority", "speculation")]
    names = [one.name for one in flags]
    screening, found = _samples(screen(names), speeds)
    best = [(one, found.candidates[one.name].faster or 0) for one in flags if found.candidates[one.name].is_promising]
    finalists = [one.name for one in combined(model, best)]
    together = {finalists[0]: speeds["all"]} if len(finalists) > 1 else {}
    timed, _ = _samples(finals(finalists, Rule(comparisons=len(finalists))), {**speeds, **together})
    more = {
        "echo job=switch-m.tune": f"job=switch-m.tune\nstatus={json.dumps({'state': 'done', 'message': _TUNED})}",
        "switch-m.tune/screening-": screening,
        "switch-m.tune/finals-": timed,
    }
    return Described(described.box, described.switch, more)


_TUNED = "27 samples; llamarig-m.service serves again as before; it was away for 212 s, and answers"


def _samples(search: Search[Any], speeds: Mapping[str, float]) -> tuple[str, Any]:
    """The lines that a box would write where the current setting takes 60 s and others are so much faster."""
    lines: list[str] = []
    try:
        wanted = next(search)
        while True:
            speed = speeds.get(wanted.candidate, 1.0) * (1 + 0.002 * (len(lines) % 3))
            replayed = Replayed(
                seconds=round(60 / speed, 3),
                first_token_s=round(21 / speed, 3),
                turn_first_token_s=(round(2.1 / speed, 3), round(2.4 / speed, 3)),
                prompt_per_second=round(390 * speed, 1),
                generation_per_second=68.5,
                depth=3120,
            )
            sample = Sample(wanted.candidate, run="1", replayed=replayed, start_s=4.0)
            lines.append(json.dumps(TakenSample(sample, Conditions(other_load=0.01)).to_json()))
            wanted = search.send(sample)
    except StopIteration as end:
        return "\n".join(lines), end.value
