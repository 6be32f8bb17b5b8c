"""The two sides of known_truth: what each tries in the search, and how each trains and scores trials."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.known_truth_search import Outcome, Settings, Space, Trial
from sae_train.architectures.catalogue import SETTINGS
from sae_train.config import WARM_UP_SHARE
from sae_train.known_truth.presets import Preset
from sae_train.known_truth.study import Entrant, Finding, study

_ROOT = Path(__file__).parent.parent
_DECIDES_L0 = {
    "standard": {"l1_coefficient": (1.0, 4.0)},
    "gated": {"l1_coefficient": (1.5, 5.0)},
    "jumprelu": {"target_l0": (8.0, 12.0)},
}
_Variants = list[tuple[str, Any]]  # Any: the value of a configuration
_WARM_UP = WARM_UP_SHARE
# Of a trial of ours: what its trainer is given and not its SAE.
_OUR_TRAINER_BASE: Settings = {"warm_up": _WARM_UP}
# Of a trial of SAELens's: what its trainer is given and not its SAE.
_TRAINER_BASE: Settings = {"warm_up": _WARM_UP, "dead_window": 20}

Answer = dict[str, Any]  # Any: JSON values


def our_spaces(preset: Preset) -> dict[str, Space]:
    """What is tried of ours, by architecture."""
    variants: dict[str, _Variants] = {
        "standard": [],
        "gated": [],
        "jumprelu": [("l0_coefficient", 0.3), ("bandwidth", 0.2), ("encoder_norm", 1.0)],
        "batch_topk": [("auxk_alpha", 0.1), ("encoder_norm", 0.1)],
    }
    auxk: _Variants = [("auxk_alpha", 0.1), ("encoder_norm", 1.0)]
    return {
        name: Space(
            architecture=name,
            base={**_OUR_TRAINER_BASE, **dataclasses.asdict(preset.settings(name))},
            coefficients=_DECIDES_L0.get(name, {}),
            variants=[("warm_up", 0.0), *variants.get(name, auxk)],
        )
        for name in SETTINGS
    }


def peer_spaces(preset: Preset) -> dict[str, Space]:
    """What is tried of SAELens's, by architecture; its base is SAELens's defaults but for what would starve.

    Those are the dead window, 1000 steps by default, and a warm-up of the learning rate and the sparsity.
    """
    common: _Variants = [("decoder_init_norm", 1.0), ("warm_up", 0.0)]
    common += [("normalize_activations", "expected_average_only_in")]
    auxk: _Variants = [("dead_window", 100), ("aux_loss_coefficient", 1 / 32)]
    kernel: _Variants = [("l0_coefficient", 0.3), ("l0_coefficient", 3.0), ("jumprelu_bandwidth", 0.2)]
    kernel += [("jumprelu_bandwidth", 1.0), ("jumprelu_init_threshold", 0.5)]
    widths = [*dataclasses.asdict(preset.settings("matryoshka_batch_topk"))["widths"], preset.d_sae]
    warm_up_steps = int(_WARM_UP * (preset.samples // preset.batch_size))
    l1 = {"l1_warm_up_steps": warm_up_steps}
    quadratic = {
        "jumprelu_sparsity_loss_mode": "quadratic",
        "l0_warm_up_steps": warm_up_steps,
    }
    return {
        name: Space(
            architecture=name,
            base={**_TRAINER_BASE, **base},
            coefficients=_DECIDES_L0.get(name, {}),
            variants=[*common, *own],
        )
        for name, base, own in (
            ("standard", l1, []),
            ("gated", l1, []),
            ("topk", {"k": preset.l0}, auxk),
            ("batch_topk", {"k": preset.l0}, auxk),
            ("matryoshka_batch_topk", {"k": preset.l0, "matryoshka_widths": widths}, auxk),
            ("jumprelu", quadratic, kernel),
        )
    }


class OurSide:
    """Ours: all trials of a call learn side by side; keeps the SAEs of its last call."""

    name = "steerd"

    def __init__(self, preset: Preset) -> None:
        """Train for `preset.samples` rows."""
        self._preset = preset
        self.findings: list[Finding] = []

    def outcomes(self, trials: Sequence[Trial], seeds: Sequence[int]) -> list[Outcome]:
        """Train and score every trial with every seed, seed by seed."""
        entrants = [self._entrant(trial) for trial in trials]
        self.findings = study(self._preset, entrants, seeds=seeds) if trials else []
        return [
            Outcome(trial=trial, seed=found.seed, scores=dataclasses.asdict(found.scores))
            for trial, found in zip([*trials] * len(seeds), self.findings, strict=True)
        ]

    def _entrant(self, trial: Trial) -> Entrant:
        own = {name: value for name, value in trial.settings.items() if name not in _OUR_TRAINER_BASE}
        return Entrant(
            architecture=trial.architecture,
            settings=SETTINGS[trial.architecture](**own),
            learning_rate=trial.learning_rate,
            warm_up_share=trial.settings["warm_up"],
        )


class PeerSide:
    """SAELens's, in several processes of one thread each in its own environment."""

    name = "SAELens"

    def __init__(self, preset: Preset, *, python: str, processes: int, folder: Path) -> None:
        """Train for `preset.samples` rows; the processes' orders are written into `folder`."""
        self._preset = preset
        self._python = python
        self._processes = processes
        self._specs = (folder / f"{number}.json" for number in count())

    def outcomes(self, trials: Sequence[Trial], seeds: Sequence[int]) -> list[Outcome]:
        """Train and score every trial with every seed, seed by seed."""
        pairs = [(trial, seed) for seed in seeds for trial in trials]
        answers = self.answers([self._job(trial, seed) for trial, seed in pairs])
        return [
            Outcome(trial=trial, seed=seed, scores=answer["scores"])
            for (trial, seed), answer in zip(pairs, answers, strict=True)
        ]

    def answers(self, jobs: Sequence[Answer]) -> list[Answer]:
        """Have jobs done; the answers in the jobs' order."""
        shares = [share for start in range(self._processes) if (share := jobs[start :: self._processes])]
        specs = [next(self._specs) for _ in shares]
        answers: list[Answer] = [{}] * len(jobs)
        with ThreadPoolExecutor(self._processes) as pool:
            for start, share in enumerate(pool.map(self._process, shares, specs)):
                answers[start :: self._processes] = share
        return answers

    def _job(self, trial: Trial, seed: int) -> Answer:
        return {
            "architecture": trial.architecture,
            "seed": seed,
            "d_sae": self._preset.d_sae,
            "samples": self._preset.samples,
            "learning_rate": trial.learning_rate,
            **{name: trial.settings[name] for name in _TRAINER_BASE},
            "settings": {name: value for name, value in trial.settings.items() if name not in _TRAINER_BASE},
        }

    def _process(self, jobs: Sequence[Answer], spec: Path) -> list[Answer]:
        values = {
            "truth": dataclasses.asdict(self._preset.truth),
            "batch_size": self._preset.batch_size,
            "threads": 1,
            "jobs": list(jobs),
        }
        spec.write_text(json.dumps(values), encoding="utf-8")
        finished = subprocess.run(
            [self._python, "-m", "benchmarks.known_truth_peer", str(spec)],
            env={**os.environ, "PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1"},
            cwd=_ROOT,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return [json.loads(line) for line in finished.stdout.splitlines() if line.startswith("{")]
