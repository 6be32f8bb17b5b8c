"""The findings of a study as a table: a line for each architecture and learning rate."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean, stdev

from rich.table import Table

from sae_train.known_truth.study import Finding

# Column -> the score, its decimals, and whether its spread over the seeds is shown.
_COLUMNS = {
    "MCC": ("mcc", 3, True),
    "F1": ("f1", 3, True),
    "recovered": ("recovered", 3, False),
    "uniqueness": ("uniqueness", 3, False),
    "var. expl.": ("variance_explained", 3, False),
    "L0": ("l0", 2, False),
    "dead": ("dead", 0, False),
}


def findings_table(findings: Sequence[Finding]) -> Table:
    """Return the table: each score's mean over the seeds, some with their standard deviation."""
    groups: dict[tuple[str, float], list[Finding]] = defaultdict(list)
    for finding in findings:
        groups[finding.entrant.architecture, finding.entrant.learning_rate].append(finding)
    table = Table(title=_title(findings), title_justify="left")
    table.add_column("architecture", no_wrap=True)
    table.add_column("rate", justify="right")
    for column in _COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    for (architecture, rate), group in groups.items():
        cells = [
            _shown([getattr(one.scores, name) for one in group], decimals, with_spread)
            for name, decimals, with_spread in _COLUMNS.values()
        ]
        table.add_row(architecture, f"{rate:g}", *cells)
    return table


def _title(findings: Sequence[Finding]) -> str:
    first = findings[0]
    seeds = len({finding.seed for finding in findings})
    return (
        f"SAEs of {first.sae.d_sae} features, {first.samples:,} samples, seeds: {seeds}, "
        f"true L0: {first.scores.true_l0:.2f}"
    )


def _shown(values: Sequence[float], decimals: int, with_spread: bool) -> str:
    spread = f" ±{stdev(values):.{decimals}f}" if with_spread and len(values) > 1 else ""
    return f"{fmean(values):.{decimals}f}{spread}"
