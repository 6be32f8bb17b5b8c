"""The registry as OpenMetrics text, as Prometheus asks for it, in a fraction of the library's time.

A scrape runs beside the engine under one interpreter lock, and what costs most of it, the escaped names and
labels of each series, is the same every time: it is kept. The text is the library's to the byte.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.samples import Exemplar, Sample
from prometheus_client.utils import floatToGoString

_number: Callable[[float], str] = floatToGoString  # the library left its types out
_MAX_KEPT = 10_000  # of series that are no more some are kept too, but not forever


class OpenMetricsText:
    """Writes one registry, whose names are all of letters, digits and underscores. For any thread."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._heads: dict[str, str] = {}
        self._series: dict[tuple[str, ...], str] = {}

    def __call__(self) -> bytes:
        """All series now."""
        if len(self._series) > _MAX_KEPT:
            self._series = {}
        lines = []
        for metric in self._registry.collect():
            lines.append(self._head(metric))
            lines += [self._line(sample) for sample in metric.samples]
        lines.append("# EOF\n")
        return "".join(lines).encode()

    def _head(self, metric: Metric) -> str:
        if metric.name not in self._heads:
            text = f"# HELP {metric.name} {_escaped(metric.documentation)}\n"
            self._heads[metric.name] = f"{text}# TYPE {metric.name} {metric.type}\n"
        return self._heads[metric.name]

    def _line(self, sample: Sample) -> str:
        key = (sample.name, *sample.labels.values())
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = _series(sample)
        exemplar = "" if sample.exemplar is None else _exemplar(sample.exemplar)
        return f"{series} {_number(sample.value)}{exemplar}\n"


def _series(sample: Sample) -> str:
    labels = ",".join(f'{name}="{_escaped(value)}"' for name, value in sorted(sample.labels.items()))
    return f"{sample.name}{{{labels}}}" if labels else sample.name


def _exemplar(exemplar: Exemplar) -> str:
    labels = ",".join(f'{name}="{_escaped(value)}"' for name, value in sorted(exemplar.labels.items()))
    at = "" if exemplar.timestamp is None else f" {exemplar.timestamp}"
    return f" # {{{labels}}} {_number(exemplar.value)}{at}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
