"""What features did in a generation, as tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from steerd.client_messages import Completed, FeatureUse, Reading, Token
from steerd.steering.intervention import FeatureRef


@dataclass(frozen=True, slots=True)
class Peak:
    """Where a feature was most active, and in how many readings it was among the most active."""

    feature: FeatureRef
    activation: float
    position: int
    times: int


def named(feature: FeatureRef) -> str:
    """The form that the command line takes."""
    return f"{feature.sae}:{feature.index}"


def most_active(reading: Reading, watch: Sequence[FeatureRef]) -> list[tuple[FeatureRef, float]]:
    """The part of a reading that was not asked for by name, strongest first."""
    watched = sum(feature.sae == reading.sae for feature in watch)
    pairs = zip(reading.features[watched:], reading.values[watched:], strict=True)
    return [(FeatureRef(reading.sae, index), value) for index, value in pairs if value > 0.0]


def peaks(readings: Iterable[Reading], watch: Sequence[FeatureRef]) -> list[Peak]:
    """Every feature that was among the most active somewhere, strongest first."""
    found: dict[FeatureRef, Peak] = {}
    for reading in readings:
        for feature, value in most_active(reading, watch):
            best = found.get(feature, Peak(feature, value, reading.position, 0))
            if value > best.activation:
                best = Peak(feature, value, reading.position, best.times)
            found[feature] = Peak(best.feature, best.activation, best.position, best.times + 1)
    return sorted(found.values(), key=lambda peak: -peak.activation)


def peaks_table(peaks: Sequence[Peak], tokens: Mapping[int, str], labels: Mapping[FeatureRef, str]) -> Table:
    """The strongest features of a text, each with the token where it peaked."""
    table = Table(
        "feature", "label", "peak", "at token", "tokens", title="Most active features", title_justify="left"
    )
    for peak in peaks:
        table.add_row(
            named(peak.feature),
            labels.get(peak.feature, ""),
            f"{peak.activation:.2f}",
            repr(tokens.get(peak.position, "")),
            str(peak.times),
        )
    return table


def token_table(
    tokens: Sequence[Token],
    readings: Sequence[Reading],
    watch: Sequence[FeatureRef],
    labels: Mapping[FeatureRef, str],
) -> Table:
    """The most active features of each token, strongest first."""
    strongest = {reading.position: most_active(reading, watch) for reading in readings}
    table = Table("token", "most active features", title="Features of each token", title_justify="left")
    for token in tokens:
        cell = Text("   ").join(
            Text.assemble((labels.get(feature, named(feature)), "bold"), f" {value:.1f}")
            for feature, value in strongest.get(token.position, [])
        )
        table.add_row(repr(token.text), cell)
    return table


def summary_table(completed: Completed, labels: Mapping[FeatureRef, str]) -> Table:
    """What each watched or steered feature did over the request."""
    table = Table(
        "feature",
        "label",
        "max",
        "mean",
        "active tokens",
        "steered tokens",
        title="Summary",
        title_justify="left",
    )
    for use in completed.features:
        table.add_row(*_summary_row(use, labels))
    return table


def _summary_row(use: FeatureUse, labels: Mapping[FeatureRef, str]) -> list[str]:
    return [
        named(use.feature),
        labels.get(use.feature, ""),
        f"{use.max_activation:.2f}",
        f"{use.mean_activation:.2f}",
        str(use.active_tokens),
        str(use.steered_tokens),
    ]


def speed_line(completed: Completed) -> str:
    """Why it ended, how much was made and how fast."""
    seconds = completed.decode_seconds
    rate = f", {(completed.generated_tokens - 1) / seconds:.1f} tokens/s" if seconds > 0 else ""
    return (
        f"{completed.finish_reason}: {completed.prompt_tokens} prompt tokens, "
        f"{completed.generated_tokens} generated, "
        f"first after {completed.queue_seconds + completed.prefill_seconds:.2f} s{rate}"
    )
