"""Plans made on a box: dry runs of the release that will serve, and the plan file on the machine that deploys."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from tasks.spec.plan_file import Plan, PlanFile


class PlanError(Exception):
    """There is no plan, and none can be made; the message says what to do."""


def read_plans(path: str) -> PlanFile:
    """The plan file; an empty one where there is none yet.

    :raises PlanError: when the file is no plan file
    """
    file = Path(path)
    if not file.exists():
        return PlanFile()
    try:
        return PlanFile.model_validate_json(file.read_text())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise PlanError(
            f"{path} is no plan file ({'.'.join(map(str, first['loc']))}: {first['msg']}): restore it from git"
        ) from None


def write_plan(path: str, box: str, model: str, plan: Plan) -> None:
    """Put one plan into the plan file, in one step; hold ONE_WRITER of tasks/operations/lock_file.py around it."""
    plans = read_plans(path)
    boxes = {**plans.boxes, box: {**plans.boxes.get(box, {}), model: plan}}
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(json.dumps(PlanFile(boxes=boxes).model_dump(mode="json"), indent=1, sort_keys=True) + "\n")
    part.replace(file)
