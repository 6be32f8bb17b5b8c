"""What features did in a generation, as tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import fmean

from rich.table import Table
from rich.text import Text

from steerd.cli.labels import Labels, brief_label_of, label_of
from steerd.cli.token_painter import shade
from steerd.client_messages import BaselineEnd, Completed, FeatureUse, Reading, Token
from steerd.steering.intervention import (
    Ablate,
    Add,
    Direction,
    FeatureRef,
    Intervention,
    Limit,
    Operation,
    Reconstruct,
    Scale,
    Set,
    WholeSae,
    operation_name,
)
from steerd.steering.receipt import Receipt

MARK = shade(1.0, 1.0)


@dataclass(frozen=True, slots=True)
class Peak:
    """Where a feature was most active, and in how many readings it was active."""

    feature: FeatureRef
    activation: float
    position: int
    times: int


def named(feature: FeatureRef) -> str:
    """The form that the command line takes."""
    return f"{feature.sae}:{feature.index}"


def edit_text(edit: Intervention) -> str:
    """An intervention without its scope, in the form that the command line takes: add starter:1234=8."""
    match edit.target:
        case FeatureRef():
            target = named(edit.target)
        case Direction(hook_point, sha256):
            target = f"{hook_point}:{sha256[:12]}"
        case WholeSae(sae):
            target = sae
    return f"{operation_name(edit.operation)} {target}{_amount(edit.operation)}"


def _amount(operation: Operation) -> str:
    match operation:
        case Add(number) | Set(number) | Scale(number):
            return f"={number:.7g}"
        case Limit(low, high):
            return f"={_bound(low)}:{_bound(high)}"
        case Ablate() | Reconstruct():
            return ""


def _bound(number: float) -> str:
    return f"{number:.7g}" if isfinite(number) else ""


def active(reading: Reading) -> list[tuple[FeatureRef, float]]:
    """The features of a reading that are active, strongest first."""
    pairs = sorted(zip(reading.values, reading.features, strict=True), reverse=True)
    return [(FeatureRef(reading.sae, index), value) for value, index in pairs if value > 0.0]


def peaks(readings: Iterable[Reading]) -> list[Peak]:
    """Every feature that was read as active somewhere, strongest first."""
    found: dict[FeatureRef, Peak] = {}
    for reading in readings:
        for feature, value in active(reading):
            best = found.get(feature, Peak(feature, value, reading.position, 0))
            if value > best.activation:
                best = Peak(feature, value, reading.position, best.times)
            found[feature] = Peak(best.feature, best.activation, best.position, best.times + 1)
    return sorted(found.values(), key=lambda peak: -peak.activation)


def divergence_line(baseline: BaselineEnd) -> str:
    """Where the steered text left the unsteered one, and how far apart they were until then."""
    if baseline.first_diverging_position is None:
        return f"the same text without steering; mean divergence {baseline.mean_kl:.3g} nats a token"
    return (
        f"differs from the unsteered text from position {baseline.first_diverging_position} on; "
        f"mean divergence until there {baseline.mean_kl:.3g} nats a token"
    )


def peaks_table(peaks: Sequence[Peak], tokens: Mapping[int, str], labels: Labels) -> Table:
    """The strongest features of a text, each with the token where it peaked."""
    table = Table(
        "feature", "label", "peak", "at token", "tokens", title="Most active features", title_justify="left"
    )
    for peak in peaks:
        table.add_row(
            named(peak.feature),
            label_of(peak.feature, labels),
            f"{peak.activation:.2f}",
            repr(tokens.get(peak.position, "")),
            str(peak.times),
        )
    return table


def token_table(
    tokens: Sequence[Token],
    readings: Sequence[Reading],
    marked: Sequence[FeatureRef],
    labels: Labels,
) -> Table:
    """The active features that were read at each token, strongest first; some of them marked."""
    by_position: dict[int, list[tuple[FeatureRef, float]]] = {}
    for reading in readings:
        by_position.setdefault(reading.position, []).extend(active(reading))
    table = Table("token", "most active features", title="Features of each token", title_justify="left")
    for token in tokens:
        parts = [
            _brief(feature, value, feature in marked, labels)
            for feature, value in by_position.get(token.position, [])
        ]
        table.add_row(repr(token.text), Text("   ").join(parts))
    return table


def _brief(feature: FeatureRef, value: float, is_marked: bool, labels: Labels) -> Text:
    label = brief_label_of(feature, labels)
    return Text.assemble((label, MARK if is_marked else "bold"), f" {value:.1f}")


def summary_table(completed: Completed, labels: Labels) -> Table:
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


def _summary_row(use: FeatureUse, labels: Labels) -> list[str]:
    return [
        named(use.feature),
        label_of(use.feature, labels),
        f"{use.max_activation:.2f}",
        f"{use.mean_activation:.2f}",
        str(use.active_tokens),
        str(use.steered_tokens),
    ]


def after_edit_table(readings: Iterable[Reading], labels: Labels) -> Table:
    """What watched features read at the tokens that were read, before and after the edits."""
    values: dict[FeatureRef, list[tuple[float, float]]] = {}
    for reading in readings:
        for index, before, after in zip(reading.features, reading.values, reading.values_after, strict=False):
            values.setdefault(FeatureRef(reading.sae, index), []).append((before, after))
    table = Table("feature", "label", "tokens", "mean before", "mean after", title="After the edits")
    table.title_justify = "left"
    for feature, pairs in values.items():
        means = [f"{fmean(column):.2f}" for column in zip(*pairs, strict=True)]
        table.add_row(named(feature), label_of(feature, labels), str(len(pairs)), *means)
    return table


def receipt_table(interventions: Sequence[Intervention], receipt: Receipt) -> Table:
    """What each intervention really did, then what all did together at each hook point."""
    table = Table("what", "tokens", "changed", "added", "before", "after", title_justify="left")
    table.title = "Receipt (added: share of the token's length)"
    for edit, part in zip(interventions, receipt.interventions, strict=False):
        added, before, after = f"{part.mean_relative_norm:.3f}", "", ""
        if not isinstance(edit.target, WholeSae):
            before, after = f"{part.mean_before:.2f}", f"{part.mean_after:.2f}"
        table.add_row(edit_text(edit), str(part.rows), str(part.rows_changed), added, before, after)
    table.add_section()
    for point in receipt.hook_points:
        added = f"{point.mean_relative_norm:.3f}, at most {point.max_relative_norm:.3f}"
        table.add_row(point.hook_point, "", str(point.rows_changed), added, "", "")
    return table


def speed_line(completed: Completed) -> str:
    """Why it ended, how much was made and how fast."""
    seconds = completed.decode_seconds
    rate = f", {(completed.generated_tokens - 1) / seconds:.1f} tokens/s" if seconds > 0 else ""
    return (
        f"{completed.finish_reason}: {completed.prompt_tokens} prompt tokens, "
        f"{completed.generated_tokens} generated, "
        f"first after {completed.queue_seconds + completed.prefill_seconds:.2f} s{rate}"
    )
