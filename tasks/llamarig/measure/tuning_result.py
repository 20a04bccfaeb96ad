"""From samples to the result of tuning a model, and that result as lines for its owner."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

from llamarig.declare.model import Model
from llamarig.measure.candidates import Candidate, words
from llamarig.records.tuning import (
    TunedPart,
    TunedSpeed,
    Tuning,
    TuningConditions,
    declared,
)
from llamarig.remote.measure.paired_difference import PairedDifference
from llamarig.remote.measure.replay import Replayed
from llamarig.remote.measure.search import CURRENT, Finals, Screening
from llamarig.remote.measure.tune_job import TakenSample


def speed_of(name: str, samples: Iterable[TakenSample]) -> TunedSpeed | None:
    """Medians over a candidate's undisturbed replays; None where there is none."""
    found = [
        one.sample.replayed
        for one in samples
        if one.counts and one.sample.candidate == name and one.sample.seconds is not None and not one.sample.cut
    ]
    replays: list[Replayed] = [replay for replay in found if replay is not None]
    if not replays:
        return None
    turns = [seconds for replay in replays for seconds in replay.turn_first_token_s]
    return TunedSpeed(
        seconds=_short(replay.seconds for replay in replays),
        first_token_s=_short(replay.first_token_s for replay in replays),
        turn_first_token_s=_short(turns) if turns else None,
        prompt_per_second=_short(replay.prompt_per_second for replay in replays),
        generation_per_second=_short(replay.generation_per_second for replay in replays),
        depth=replays[-1].depth,
    )


def _short(values: Iterable[float]) -> float:
    return float(f"{statistics.median(values):.5g}")


def parts_of(tried: Sequence[Candidate], screening: Screening) -> tuple[TunedPart, ...]:
    """What each setting was worth alone, the best first."""
    found = []
    for one in tried:
        screened = screening.candidates.get(one.name)
        if screened is None:
            found.append(TunedPart(setting=one.name, remark="not tried: the time was over"))
            continue
        faster = None if screened.faster is None else round(screened.faster, 4)
        found.append(TunedPart(setting=one.name, faster=faster, samples=screened.samples, remark=screened.remark))
    return tuple(sorted(found, key=lambda part: -(part.faster if part.faster is not None else -9)))


def promising(tried: Sequence[Candidate], screening: Screening) -> list[tuple[Candidate, float]]:
    """Candidates that are worth a final, with their gain."""
    found = []
    for one in tried:
        screened = screening.candidates.get(one.name)
        if screened is not None and screened.is_promising and screened.faster is not None:
            found.append((one, screened.faster))
    return found


def tuning_of(
    model: Model,
    finalists: Sequence[Candidate],
    found: Finals,
    samples: Sequence[TakenSample],
    parts: tuple[TunedPart, ...],
    left_out: Sequence[str],
    conditions: TuningConditions,
    *,
    complete: bool,
) -> Tuning:
    """The result of the finals; without finalists, nothing is better.

    :param samples: of the finals, or of the screening where there were none
    :param complete: whether all that was to be timed has been
    """
    winner = next((one for one in finalists if one.name == found.winner), None)
    best = winner or (finalists[0] if finalists else None)
    difference = found.differences.get(best.name) if best is not None else None
    values = _interval(difference) if difference is not None else {}
    return Tuning(
        verdict="faster" if winner else "nothing better" if complete else "undecided",
        workload=workload_words(model),
        settings=dict(winner.settings) if winner else {},
        replaced={name: declared(model, name) for name in winner.settings} if winner else {},
        pairs=difference.pairs if difference is not None else 0,
        before=speed_of(CURRENT, samples),
        after=speed_of(best.name, samples) if best is not None else None,
        parts=parts,
        left_out=tuple(left_out),
        conditions=conditions,
        faster=values.get("faster"),
        low=values.get("low"),
        high=values.get("high"),
    )


def _interval(found: PairedDifference) -> dict[str, float]:
    """As JSON can hold it: without infinite bounds, which a comparison has before its first look."""
    named = {"faster": found.faster, "low": found.low, "high": found.high}
    return {name: round(value, 4) for name, value in named.items() if -1 < value < float("inf")}


def workload_words(model: Model) -> str:
    """The workload in a word. Of a recording not even the name: a path may say what it is about."""
    assert model.workload is not None
    return model.workload.preset or "recording"


def conditions_of(
    samples: Sequence[TakenSample], date: str, release: str, kernel: str, driver: str, cards: Sequence[str]
) -> TuningConditions:
    """The conditions of samples, with what they were taken on."""
    counted = [one.conditions for one in samples if one.counts]
    loads = [one.other_load for one in counted if one.other_load is not None]
    clocks = [one.gpu_mhz for one in counted if one.gpu_mhz]
    gpus = min(map(len, clocks), default=0)
    return TuningConditions(
        date=date,
        release=release,
        kernel=kernel,
        driver=driver,
        cards=tuple(cards),
        gpu_mhz=tuple(round(statistics.median(each[gpu] for each in clocks)) for gpu in range(gpus)),
        other_load=round(statistics.median(loads), 4) if loads else None,
        repeated=sum(not one.counts for one in samples),
    )


# --- for the owner ----------------------------------------------------------------------------------------------------


def percent(fraction: float) -> str:
    """A fraction of speed as a signed percentage."""
    return f"{100 * fraction:+.1f} %"


def verdict_line(name: str, tuning: Tuning) -> str:
    """The result in one sentence."""
    if tuning.verdict == "undecided":
        return f"{name}: not decided in the time; run tasks/tune.py again, it goes on where it was"
    if tuning.verdict == "nothing better":
        return f"{name}: nothing better than what you have, for the workload {tuning.workload}"
    assert tuning.faster is not None
    low = f", at least {100 * tuning.low:.1f} %" if tuning.low is not None else ""
    return f"{name}: {100 * tuning.faster:.1f} % faster{low}, with {words(tuning.settings)}"


def report_lines(name: str, tuning: Tuning) -> list[str]:
    """The whole result: both speeds, what each part was worth, what was not tried, and the conditions."""
    lines = [verdict_line(name, tuning)]
    if tuning.low is not None and tuning.high is not None and tuning.faster is not None:
        lines.append(
            f"    confidence interval {percent(tuning.low)} to {percent(tuning.high)}, after {tuning.pairs} pairs of "
            f"timings with the workload {tuning.workload}"
        )
    rows = [("now", tuning.before), ("proposed" if tuning.settings else "the best other", tuning.after)]
    lines += [f"    {label:15} {speed_words(speed)}" for label, speed in rows if speed is not None]
    shown = [part for part in tuning.parts if part.faster is not None]
    if shown:
        lines.append("    each alone, from one or two timings:")
        lines += [f"        {part.setting:40} {_part(part)}" for part in shown]
    untried = [f"{part.setting} ({part.remark})" for part in tuning.parts if part.faster is None]
    lines += [f"    not timed: {one}" for one in (*untried, *tuning.left_out)]
    return [*lines, f"    {conditions_words(tuning.conditions)}"]


def _part(part: TunedPart) -> str:
    assert part.faster is not None
    return f"{percent(part.faster):>8}" + (f"  {part.remark}" if part.remark else "")


def speed_words(speed: TunedSpeed) -> str:
    """One line of a setting's speed."""
    turn = f", later turns {speed.turn_first_token_s:.2f} s" if speed.turn_first_token_s is not None else ""
    return (
        f"{speed.seconds:.1f} s in all; first token after {speed.first_token_s:.2f} s{turn}; prompt "
        f"{speed.prompt_per_second:.0f} tokens/s; generation {speed.generation_per_second:.1f} tokens/s at "
        f"{speed.depth} tokens"
    )


def conditions_words(at: TuningConditions) -> str:
    """The conditions in one line."""
    parts = [at.date, f"llama.cpp {at.release[:12]}", *([f"driver {at.driver}"] if at.driver else [])]
    parts += [", ".join(at.cards) or "no GPU"]
    parts += [f"GPU clocks {', '.join(map(str, at.gpu_mhz))} MHz"] if at.gpu_mhz else []
    parts += [f"kernel {at.kernel}"] if at.kernel else []
    parts += [f"other programs used {100 * at.other_load:.0f} % of the processors"] if at.other_load is not None else []
    parts += [f"{at.repeated} disturbed samples repeated"] if at.repeated else []
    return "; ".join(parts)


def declaration_lines(tuning: Tuning) -> list[str]:
    """The proposal as it would be declared, for an owner who writes it himself."""
    return [f"{name} = {value!r}" for name, value in _declared(tuning.settings).items()]


def _declared(settings: Mapping[str, object]) -> dict[str, object]:
    return {name if name == "build" else f"serve.{name}": value for name, value in settings.items()}
