"""What tuning a model has found: a proposal in the plan file, with every number and the conditions it stands for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, ValidationError

from llamarig.declare.base import Declaration
from llamarig.declare.model import Model
from llamarig.declare.rig import Rig

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]
ENVIRONMENT = "environment."
"""Beginning of a setting that is one variable of serve.environment."""
BUILD = "build"
"""The setting that is the model's build."""
Settings = Mapping[str, JsonValue]
"""Setting -> value: fields of serve, ``environment.NAME``, or ``build``. None: as if not declared."""


class TunedSpeed(Declaration):
    """Medians of a setting's replays. Seconds, and tokens per second."""

    seconds: Seconds
    first_token_s: Seconds = Field(description="of the first prompt, which is not cached")
    turn_first_token_s: Seconds | None = Field(default=None, description="of later turns; None where there is one turn")
    prompt_per_second: Rate
    generation_per_second: Rate = Field(description="with ``depth`` tokens before it")
    depth: int = Field(ge=0)


class TunedPart(Declaration):
    """One setting that was tried alone. ``faster``: fraction of speed, None where nothing could be timed."""

    setting: str
    faster: float | None = None
    samples: int = Field(default=0, ge=0)
    remark: str = ""


class TuningConditions(Declaration):
    """Conditions of the finals. ``date``: UTC, of the control machine."""

    date: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
    release: str
    kernel: str = ""
    driver: str = ""
    cards: tuple[str, ...] = ()
    gpu_mhz: tuple[int, ...] = Field(default=(), description="median clock of each GPU while it computed")
    other_load: float | None = Field(default=None, description="median share of the processors that others used")
    repeated: int = Field(default=0, ge=0, description="samples that were disturbed and taken again")


class Tuning(Declaration):
    """The result of tuning one model on one box, for one workload.

    ``settings``: what is proposed, and ``replaced`` the values that they were compared with. ``faster``, ``low`` and
    ``high``: fraction of speed gained, with its confidence interval, after ``pairs`` pairs of timings.
    """

    verdict: Literal["faster", "nothing better", "undecided"]
    workload: str
    settings: dict[str, JsonValue] = Field(default={})
    replaced: dict[str, JsonValue] = Field(default={})
    faster: float | None = None
    low: float | None = None
    high: float | None = None
    pairs: int = Field(default=0, ge=0)
    before: TunedSpeed | None = None
    after: TunedSpeed | None = None
    parts: tuple[TunedPart, ...] = ()
    left_out: tuple[str, ...] = Field(default=(), description="what could not be tried, and why")
    conditions: TuningConditions


class AcceptedSettings(Declaration):
    """Settings that the owner has accepted, and the declared values that they replace.

    Each holds for as long as its declared value is still that one: what the owner edits is his own.
    """

    settings: dict[str, JsonValue] = Field(default={})
    replaced: dict[str, JsonValue] = Field(default={})


def accepted_with(earlier: AcceptedSettings | None, tuning: Tuning) -> AcceptedSettings:
    """What is accepted once a proposal is: that was compared with the settings accepted before, and goes with them."""
    before = earlier or AcceptedSettings()
    return AcceptedSettings(
        settings={**before.settings, **tuning.settings}, replaced={**tuning.replaced, **before.replaced}
    )


def declared(model: Model, setting: str) -> JsonValue:
    """The declared value of a setting; None where it is left out."""
    if setting == BUILD:
        return model.build
    if setting.startswith(ENVIRONMENT):
        return model.serve.environment.get(setting.removeprefix(ENVIRONMENT))
    found: JsonValue = model.serve.model_dump(mode="json")[setting]
    return found


def with_settings(model: Model, settings: Settings) -> Model:
    """The model with other settings.

    :raises ValueError: for settings that may not be declared together
    """
    whole: dict[str, Any] = model.model_dump(mode="json")
    for setting, value in settings.items():
        if setting == BUILD:
            whole["build"] = value
        elif setting.startswith(ENVIRONMENT):
            name, environment = setting.removeprefix(ENVIRONMENT), dict(whole["serve"]["environment"])
            environment.pop(name, None)
            whole["serve"]["environment"] = {**environment, **({} if value is None else {name: value})}
        elif value is None and type(model.serve).model_fields[setting].default is not None:
            del whole["serve"][setting]
        else:
            whole["serve"][setting] = value
    try:
        return Model.model_validate(whole)
    except ValidationError as error:
        raise ValueError("; ".join(str(one["msg"]) for one in error.errors())) from None


def as_tuned(model: Model, accepted: AcceptedSettings | None) -> Model:
    """The model with the accepted settings whose declared values are still those that they replaced."""
    if accepted is None:
        return model
    known = [name for name in accepted.settings if name in accepted.replaced and _is_setting(model, name)]
    valid = {name: accepted.settings[name] for name in known if declared(model, name) == accepted.replaced[name]}
    try:
        return with_settings(model, valid)
    except ValueError:  # what is declared now does not go with it
        return model


def _is_setting(model: Model, name: str) -> bool:
    return name == BUILD or name.startswith(ENVIRONMENT) or name in type(model.serve).model_fields


def with_accepted(rig: Rig, accepted: Mapping[str, AcceptedSettings | None]) -> Rig:
    """The rig with what its owner has accepted; unchanged where that names a build which is not declared any more.

    :param accepted: model -> what is accepted for it on this box
    """
    models = tuple(as_tuned(model, accepted.get(model.name)) for model in rig.models)
    builds = {build.name for build in rig.builds}
    if models == rig.models or any(model.build not in builds for model in models):
        return rig
    return rig.model_copy(update={"models": models})
