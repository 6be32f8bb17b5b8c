"""FAST against block training, at equal L0: what each makes of conversations held out from all three.

The three ways of arXiv 2506.07691 to feed an instruct model: FAST (each conversation alone), BT(F) (the same
conversations joined and cut into blocks), BT(P) (plain text in blocks). Same host, hook point, number of
tokens, width, recipe and seed. All are measured on FAST's held-out conversations, batch-top-k SAEs with a
threshold calibrated there, so that every SAE stands at L0 = k; a top-k SAE has k on each special token too.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.report import Report, Row, parser_of, report_for
from sae_train import pipeline
from sae_train.activations.activation_scale import ActivationScale
from sae_train.activations.run_corpus import open_cache
from sae_train.config_file import load_config
from sae_train.evaluation.calibration import calibrate_threshold, with_threshold
from sae_train.export.export import measure
from sae_train.surroundings import Surroundings
from sae_train.training.run_log import RunLog
from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel
from steerd.sae.autoencoder import SparseAutoencoder
from steerd.sae.sae_file import load_sae

NAME = "fast_vs_block"

CONFIG = """
output = "{work}/{arm}"
seed = {seed}
{saes}
[data]
cache = "{work}/{arm}-activations"
tokens = {tokens}
held_out_tokens = {held_out}
context = {context}
document_tokens = 8192
shard_tokens = 32768
[[data.sources]]
path = "{source}"
mode = "{mode}"
[training]
tokens = {trained_tokens}
batch_size = 2048
[evaluation]
cross_entropy_tokens = 1000
statistics_tokens = 20000
"""
SAE = """
[[saes]]
name = "{architecture}"
hook_point = "{hook_point}"
architecture = "{architecture}"
d_sae = {d_sae}
k = {k}
learning_rate = {learning_rate}
"""


@dataclass(frozen=True, slots=True)
class Arm:
    """One way of feeding the host."""

    name: str
    mode: str
    source: Path


def arms(options: argparse.Namespace) -> tuple[Arm, ...]:
    """The paper's three, in the order that it found them worst to best."""
    return (
        Arm("bt_p", "block", options.text),
        Arm("bt_f", "block", options.chat),
        Arm("fast", "fast", options.chat),
    )


def write_config(arm: Arm, options: argparse.Namespace, work: Path, seed: int) -> Path:
    """The run's TOML file."""
    saes = "".join(
        SAE.format(architecture=architecture, **vars(options)) for architecture in options.architectures
    )
    path = work / f"{arm.name}-{seed}.toml"
    values = vars(options) | {"work": work, "arm": f"{arm.name}-{seed}", "saes": saes, "seed": seed}
    path.write_text(CONFIG.format(**values, source=arm.source, mode=arm.mode))
    return path


@contextmanager
def conversations(config_path: Path) -> Iterator[Surroundings]:
    """The held-out conversations of FAST's run, and the host to put them through."""
    config = load_config(config_path)
    host = HostModel.load(config.host.name)
    cache = open_cache(config.data, host, seed=config.seed)
    with RunLog(Path(config.output) / "comparison.jsonl") as log:
        yield Surroundings(config=config, cache=cache, host=host, log=log)


def row(arm: Arm, architecture: str, seed: int, sae: SparseAutoencoder, around: Surroundings) -> Row:
    """Measure one SAE on the conversations."""
    hook_point = around.config.hook_points[0]
    sample = torch.cat([batch.resid for batch in around.held_out(hook_point, _ANY_LENGTH)])
    median = float(sample.norm(dim=1).median())
    scale = ActivationScale(median_norm=median, outlier_limit=10 * median, scale=1.0)
    if architecture == "batch_topk":
        rows = [batch.resid for batch in around.held_out(hook_point, scale)]
        sae = with_threshold(sae, calibrate_threshold(sae, lambda: rows, k=_k(around, architecture)))
    found = measure(sae, hook_point, scale, around).as_json()
    return {
        "arm": arm.name,
        "architecture": architecture,
        "seed": seed,
        **{name: _number(found[name]) for name in _SHOWN},
        "special_peak": special_peak(sae, hook_point, scale, around),
    }


def special_peak(
    sae: SparseAutoencoder, hook_point: HookPoint, scale: ActivationScale, around: Surroundings
) -> float:
    """The strongest feature's activation on special tokens, on average, as a share of the row's length."""
    peaks = [
        sae.encode(batch.resid[batch.special]).max(dim=1).values / batch.resid[batch.special].norm(dim=1)
        for batch in around.held_out(hook_point, scale)
    ]
    return float(torch.cat(peaks).mean())


_ANY_LENGTH = ActivationScale(median_norm=1.0, outlier_limit=float("inf"), scale=1.0)
_SHOWN = (
    "l0_mean",
    "l0_special_tokens",
    "mse",
    "mse_special_tokens",
    "mse_ln",
    "mse_special_tokens_ln",
    "variance_explained",
    "cross_entropy_clean",
    "cross_entropy_spliced",
    "kl_spliced",
)


def _number(value: Any) -> float:  # Any: a JSON value
    return float(value) if value is not None else float("nan")


def _k(around: Surroundings, architecture: str) -> int:
    (sae,) = (sae for sae in around.config.saes if sae.architecture == architecture)
    return int(getattr(sae.settings, "k"))  # noqa: B009  # both architectures have one


def run(report: Report, options: argparse.Namespace, work: Path) -> None:
    """Train every arm, measure all on FAST's conversations."""
    found: dict[tuple[str, str], list[Row]] = {}
    for seed in range(options.seeds):
        configs = {arm: write_config(arm, options, work, seed) for arm in arms(options)}
        for config in configs.values():
            pipeline.run(config)
        with conversations(configs[arms(options)[-1]]) as around:
            for arm in configs:
                for architecture in options.architectures:
                    folder = work / f"{arm.name}-{seed}" / "saes" / architecture
                    measured = row(arm, architecture, seed, load_sae(folder).sae, around)
                    found.setdefault((arm.name, architecture), []).append(measured)
    for rows in found.values():
        report.add_rows("held-out conversations", rows)
    for architecture in options.architectures:
        for worse, better in (("bt_p", "bt_f"), ("bt_f", "fast")):
            for measure_name in ("mse_special_tokens", "mse"):
                ratio = _mean(found[better, architecture], measure_name) / _mean(
                    found[worse, architecture], measure_name
                )
                report.at_most(f"{architecture}_{measure_name}_{better}_over_{worse}", ratio, 1.0)


def _mean(rows: list[Row], name: str) -> float:
    return sum(float(row[name]) for row in rows) / len(rows)


def main() -> None:
    """Run the benchmark."""
    parser = parser_of(__doc__ or "")
    parser.add_argument("--chat", type=Path, required=True, help="a corpus file of conversations")
    parser.add_argument("--text", type=Path, required=True, help="a corpus file of plain texts")
    parser.add_argument("--work", type=Path, help="folder to keep the activations in; absent: none")
    parser.add_argument("--hook-point", default="blocks.14.hook_resid_post")
    parser.add_argument("--tokens", type=int, default=300_000, help="distinct tokens an arm")
    parser.add_argument("--trained-tokens", type=int, default=1_200_000)
    parser.add_argument("--held-out", type=int, default=40_000)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--d-sae", type=int, default=2304)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--seeds", type=int, default=1)
    choices = ["batch_topk", "topk"]
    parser.add_argument("--architectures", nargs="+", default=choices, choices=choices)
    options = parser.parse_args()
    report = report_for(NAME, options)
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        run(report, options, work)
    report.finish()


if __name__ == "__main__":
    main()
