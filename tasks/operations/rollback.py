"""Back to what served before: the unit text that answered last, with the release and the files it names."""

from __future__ import annotations

from pyinfra.api.operation import operation
from pyinfra.context import host

from tasks.facts.proofs import PreviousProofs
from tasks.operations import Commands
from tasks.operations.refuse import refuse
from tasks.operations.serving import read_units
from tasks.operations.switches import run_switch, switches_awaited
from tasks.planning import layout
from tasks.spec.rig import Rig


@operation(is_idempotent=False, idempotent_notice="a second rollback returns to where the first one started")
def rolled_back(rig: Rig, only: str | None = None) -> Commands:
    """Every running model of the box, or ``only`` one, serves as it did before its last switch."""
    if only is not None and only not in {model.name for model in rig.models}:
        yield from refuse(f"no model is called {only!r}; this box has {', '.join(model.name for model in rig.models)}")
        return
    names = [only] if only is not None else [model.name for model in rig.models]
    units, previous = read_units(rig), host.get_fact(PreviousProofs)
    texts = {unit: proof["text"] for unit, proof in previous.items() if unit in map(layout.unit_name, names)}
    waited = yield from switches_awaited(texts)
    if waited is None:
        return
    if waited:
        # A rollback that was interrupted: what it was doing is done, and so are the models before that; a second
        # rollback of those would go forward again.
        units, previous = read_units(rig, fresh=True), host.get_fact(PreviousProofs)
        names = names[max(names.index(name) for name in waited) + 1 :]
    running = [name for name in names if (unit := units.get(layout.unit_name(name))) is not None and unit.is_active]
    found = {name: previous[layout.unit_name(name)] for name in running if layout.unit_name(name) in previous}
    if waited and not found:
        host.log("that was this rollback already: nothing more was done")
        return
    if not found:
        yield from refuse("nothing to go back to: no running model has served in another way before")
        return
    for name, proof in found.items():
        host.log(f"{name}: back to what answered on {proof.get('proved_at', 'an unknown day')}")
        yield from run_switch(name, proof["job"])
    commits = sorted({str(proof["job"]["commit"]) for proof in found.values()})
    host.log(f"the next deploy goes forward again, unless you declare this: llama.cpp {', '.join(commits)}")
