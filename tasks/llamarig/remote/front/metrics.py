"""Counts of a front, and their text for Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from llamarig.remote.front.scheduler import ModelState, Phase

_PREFIX = "llamarig_front_"


class Metrics:
    """What has happened since the front was started."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str, int]] = Counter()
        """(model, key, status); empty texts where none is known."""
        self.waited_s: dict[str, float] = {}
        """Model -> seconds that its admitted requests have waited, together."""
        self.admitted: Counter[str] = Counter()
        self.hung_up: Counter[str] = Counter()
        """Model -> requests whose clients have hung up before their answers ended."""

    def waited(self, model: str, seconds: float) -> None:
        """A request has been admitted, after it has waited for so long."""
        self.admitted[model] += 1
        self.waited_s[model] = self.waited_s.get(model, 0.0) + seconds

    def text(
        self, states: Mapping[str, ModelState], started: Mapping[tuple[str, bool], int], in_use: Mapping[str, int]
    ) -> str:
        """The text of /metrics.

        :param started: (model, whether it answered) -> starts; ``in_use``: key -> requests now
        """
        lines: list[str] = []
        for name, kind, help_text, samples in (
            (
                "requests_total",
                "counter",
                "Answered requests.",
                [
                    (_labels(model=model, key=key, code=str(status)), float(count))
                    for (model, key, status), count in sorted(self.requests.items())
                ],
            ),
            ("wait_seconds_sum", "counter", "Seconds that admitted requests have waited.", _of_models(self.waited_s)),
            ("wait_seconds_count", "counter", "Admitted requests.", _of_models(self.admitted)),
            ("hung_up_total", "counter", "Requests whose clients have hung up.", _of_models(self.hung_up)),
            (
                "starts_total",
                "counter",
                "Starts of a model's unit by the front.",
                [
                    (_labels(model=model, succeeded=str(answered).lower()), float(count))
                    for (model, answered), count in sorted(started.items())
                ],
            ),
            (
                "waiting",
                "gauge",
                "Requests that wait.",
                [(_labels(model=name), float(state.waiting)) for name, state in states.items()],
            ),
            (
                "running",
                "gauge",
                "Requests that are being answered.",
                [(_labels(model=name), float(state.running)) for name, state in states.items()],
            ),
            (
                "loaded",
                "gauge",
                "Whether the model is loaded.",
                [(_labels(model=name), float(state.phase is Phase.READY)) for name, state in states.items()],
            ),
            (
                "key_requests",
                "gauge",
                "Requests of a key, those that wait included.",
                [(_labels(key=key), float(count)) for key, count in sorted(in_use.items()) if key],
            ),
        ):
            lines += [f"# HELP {_PREFIX}{name} {help_text}", f"# TYPE {_PREFIX}{name} {kind}"]
            lines += [f"{_PREFIX}{name}{labels} {value:g}" for labels, value in samples]
        return "\n".join(lines) + "\n"


def _of_models(counts: Mapping[str, float]) -> Iterable[tuple[str, float]]:
    return [(_labels(model=name), float(count)) for name, count in sorted(counts.items())]


def _labels(**values: str) -> str:
    """Names of models and keys need no escaping: letters, digits and dashes."""
    return "{" + ",".join(f'{name}="{value}"' for name, value in values.items()) + "}"
