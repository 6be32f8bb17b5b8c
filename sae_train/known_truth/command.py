"""The command `sae-train known-truth`: a study of one preset, printed as a table and, if asked, as JSON."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from sae_train.activations.shard import write_json
from sae_train.known_truth.presets import PRESETS
from sae_train.known_truth.study import Entrant, study
from sae_train.known_truth.table import findings_table

_WIDTH_WITHOUT_TERMINAL = 120


def known_truth(
    preset_name: str,
    *,
    architectures: Sequence[str],
    learning_rates: Sequence[float],
    samples: int | None,
    l0: int | None,
    seeds: int,
    device: str,
    output: Path | None,
) -> None:
    """Run the study and print its table; what is None is as the preset has it. Raises ConfigError."""
    preset = PRESETS[preset_name]
    if samples is not None:
        preset = dataclasses.replace(preset, samples=samples)
    if l0 is not None:
        preset = dataclasses.replace(preset, l0=l0)
    entrants = [
        Entrant(architecture=name, settings=preset.settings(name), learning_rate=rate)
        for name in architectures
        for rate in learning_rates or [preset.learning_rate]
    ]
    with Progress(transient=True) as progress:
        task = progress.add_task("samples", total=preset.samples * seeds)
        findings = study(
            preset,
            entrants,
            seeds=range(seeds),
            device=device,
            on_step=lambda rows: progress.advance(task, rows),
        )
    Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH_WITHOUT_TERMINAL).print(
        findings_table(findings)
    )
    if output is not None:
        found = [finding.as_json() for finding in findings]
        write_json(output, {"preset": preset_name, "findings": found})
