"""Whether our evaluation gives the numbers of SAELens's `run_evals` and of SAEBench's `core`.

All measure the same SAE folder on the same token blocks of the same host, each by its own code from the ids
on. Rows are measured with each block's first token left out; for the losses every row is replaced, because
the peers' zero ablation replaces every row. Blocks with an outlier (an attention sink) further on are passed
over: the peers cannot leave a row out by its norm, and one alone would make up all of the error. Figures that
a peer defines otherwise are computed by its definition from our rows, and marked.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.metric_peers.job import PROMPTS_AT_ONCE, Job
from benchmarks.report import Report, Row, parser_of, report_for
from sae_train.activations.held_out import HeldOutRows
from sae_train.corpus.token_blocks import TokenBlock
from sae_train.evaluation.cross_entropy import Splice
from sae_train.evaluation.evaluation import Record, evaluate_sae
from sae_train.evaluation.reconstruction import rows_at_once
from steerd.host.decoder_layers import find_decoder_layers
from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel
from steerd.host.loading import load_pretrained
from steerd.host.text import encode_prompt
from steerd.sae.autoencoder import SparseAutoencoder
from steerd.sae.sae_file import load_sae
from steerd.starters import sae_folder

NAME = "metric_agreement"
TOLERANCE = 1e-4
"""Largest relative difference: all sides sum tens of thousands of float32 numbers in orders of their own."""

OUTLIER_NORM = 10  # times the median norm

_ROOT = Path(__file__).parent.parent
_PACKAGE = "benchmarks.metric_peers"

# Ours -> theirs. SAELens and SAEBench share the names.
SHARED = {
    "l0_mean": "l0",
    "variance_explained_legacy": "explained_variance_legacy",
    "cosine": "cossim",
    "relative_norm": "l2_ratio",
    "relative_reconstruction_bias": "relative_reconstruction_bias",
    "features_dead": "features_dead",
    "features_dense": "features_dense",
    "cross_entropy_clean": "ce_loss_without_sae",
    "cross_entropy_spliced": "ce_loss_with_sae",
    "cross_entropy_zero_ablated": "ce_loss_with_ablation",
    "cross_entropy_recovered_from_zero": "ce_loss_score",
    "kl_spliced": "kl_div_with_sae",
    "kl_zero_ablated": "kl_div_with_ablation",
}
SAELENS = {**SHARED, "variance_explained": "explained_variance", "mse x d_model": "mse"}
SAEBENCH = {
    **SHARED,
    "decoder_neighbour_cosine_mean": "max_decoder_cosine_sim",
    # SAEBench subtracts the squared mean square, not the squared mean, and divides by the tokens twice.
    "variance_explained, SAEBench's variance": "explained_variance",
    "mse x d_model / tokens": "mse",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The SAE, its place, and the blocks."""

    sae: SparseAutoencoder
    host: HostModel
    hook_point: HookPoint
    job: Job

    def blocks(self) -> list[TokenBlock]:
        """The blocks with every token kept."""
        return [TokenBlock(ids, [True] * len(ids), source="") for ids in self.job.token_ids]

    def rows(self) -> Iterable[HeldOutRows]:
        """Every block's activations but for its first token's."""
        for ids in self.job.token_ids:
            resid = self.host.activations(torch.tensor([ids]), None, [self.hook_point])[self.hook_point][
                0, 1:
            ]
            special = torch.zeros(len(resid), dtype=torch.bool)
            yield HeldOutRows(resid=resid.float(), token_ids=torch.tensor(ids[1:]), special=special)


def main() -> None:
    """Measure, ask the peers, compare."""
    options = _options()
    report = report_for(NAME, options)
    subject = _subject(options)
    ours = measure(subject)
    peers = {
        "SAELens": ("saelens_evals", options.peer_python, SAELENS),
        "SAEBench": ("saebench_core", options.saebench_python or options.peer_python, SAEBENCH),
    }
    for peer, (script, python, names) in peers.items():
        theirs = _ask(python, script, subject.job)
        if theirs is None:
            print(f"{peer} is left out: it is not in the environment given")
            continue
        compare(report, peer, ours, theirs, names)
    report.finish()


def measure(subject: Subject) -> Record:
    """Our evaluation, and what the peers define otherwise."""
    splice = Splice(
        host=subject.host,
        hook_point=subject.hook_point,
        blocks=subject.blocks(),
        outlier_limit=float("inf"),
        batch_tokens=PROMPTS_AT_ONCE * len(subject.job.token_ids[0]),
    )
    found = evaluate_sae(subject.sae, subject.rows, splice=splice).as_json()
    found["mse x d_model"] = found["mse"] * subject.sae.d_model
    found["mse x d_model / tokens"] = found["mse x d_model"] / found["tokens"]
    found["variance_explained, SAEBench's variance"] = _saebench_variance_explained(subject)
    return found


def compare(report: Report, peer: str, ours: Record, theirs: dict[str, float], names: dict[str, str]) -> None:
    """Add a table and a target for the largest difference."""
    rows: list[Row] = []
    for name, their_name in names.items():
        difference = abs(ours[name] - theirs[their_name]) / max(abs(theirs[their_name]), 1e-12)
        rows.append(
            {
                "ours": name,
                "value": ours[name],
                f"{peer}'s": their_name,
                "its value": theirs[their_name],
                "relative difference": difference if ours[name] != theirs[their_name] else 0.0,
            }
        )
    report.add_rows(f"{peer}, {ours['tokens']} rows", rows)
    largest = max(float(row["relative difference"]) for row in rows)
    report.at_most(f"{peer.lower()}_largest_relative_difference", largest, TOLERANCE)


def ordinary_blocks(host: HostModel, hook_point: HookPoint, blocks: list[list[int]]) -> list[list[int]]:
    """The blocks that have no outlier but perhaps their first row, as many as the peers can batch."""
    norms = torch.stack([_rows(host, hook_point, ids).norm(dim=1) for ids in blocks])  # [blocks, context - 1]
    is_ordinary = norms.max(dim=1).values <= OUTLIER_NORM * norms.median()
    chosen = [ids for ids, fits in zip(blocks, is_ordinary.tolist(), strict=True) if fits]
    return chosen[: len(chosen) - len(chosen) % PROMPTS_AT_ONCE]


def token_ids(host: HostModel, options: argparse.Namespace) -> list[list[int]]:
    """Blocks of one length from the texts, begun by a special token that occurs nowhere else."""
    first_id, length = _first_id(host), options.context - 1
    text = "\n\n".join(path.read_text(encoding="utf-8") for path in options.text)
    ids = [token_id for token_id in encode_prompt(host.tokenizer, text) if token_id != first_id]
    blocks = min(len(ids) // length, 8 if options.quick else options.blocks)
    if blocks < PROMPTS_AT_ONCE:
        raise SystemExit(f"the text has {len(ids)} tokens; at least {PROMPTS_AT_ONCE * length} are needed")
    return [[first_id, *ids[i * length : (i + 1) * length]] for i in range(blocks)]


def _ask(python: str | None, script: str, job: Job) -> dict[str, float] | None:
    """What the peer's environment measures; None where it lacks the peer."""
    package = {"saelens_evals": "sae_lens", "saebench_core": "sae_bench"}[script]
    if python is None or not _has(python, package):
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.json"
        job.write(path)
        command = [python, "-m", f"{_PACKAGE}.{script}", str(path)]
        printed = subprocess.run(command, cwd=_ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, Any] = json.loads(printed.splitlines()[-1])
    density = torch.tensor(found.pop("feature_density"))
    dead, dense = int((density == 0).sum()), int((density > 0.1).sum())
    return found | {"features_dead": dead, "features_dense": dense}


def _has(python: str, package: str) -> bool:
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec('{package}') is None)"
    return subprocess.run([python, "-c", code], check=False).returncode == 0


def _rows(host: HostModel, hook_point: HookPoint, ids: list[int]) -> Tensor:
    """A block's activations but for its first token's, [context - 1, d_model] float32."""
    return host.activations(torch.tensor([ids]), None, [hook_point])[hook_point][0, 1:].float()


def _saebench_variance_explained(subject: Subject) -> float:
    """1 - mean error^2 / (mean x^2 - m^2), where m is the mean over tokens and dimensions of x_d^2."""
    x = torch.cat([rows.resid for rows in subject.rows()])
    errors: list[Tensor] = []
    for part in torch.split(x, rows_at_once(subject.sae)):
        errors.append((part - subject.sae.decode(subject.sae.encode(part))).double().square().sum(dim=1))
    square = x.double().square().sum(dim=1).mean()
    variance = square - (square / x.shape[1]).square()
    return float(1 - torch.cat(errors).mean() / variance)


def _subject(options: argparse.Namespace) -> Subject:
    bundle = load_sae(options.sae)
    hook_point = HookPoint.parse(bundle.metadata.hook_point)
    if hook_point.site != "resid_post":
        raise SystemExit(f"{options.sae}: reads at {hook_point}; the peers are given a layer's output only")
    loaded = load_pretrained(options.model or bundle.metadata.model_name, dtype="float32", device="cpu")
    host = HostModel(loaded.model, loaded.tokenizer, name=bundle.metadata.model_name, folder=loaded.folder)
    layer = find_decoder_layers(loaded.model, host.num_layers)[hook_point.layer]
    job = Job(
        sae_folder=str(options.sae.resolve()),
        host_folder=str(loaded.folder),
        layer_module=next(name for name, module in loaded.model.named_modules() if module is layer),
        layer=hook_point.layer,
        d_sae=bundle.sae.d_sae,
        token_ids=ordinary_blocks(host, hook_point, token_ids(host, options)),
        first_id=_first_id(host),
    )
    return Subject(sae=bundle.sae, host=host, hook_point=hook_point, job=job)


def _first_id(host: HostModel) -> int:
    return min(host.special_token_ids)


def _options() -> argparse.Namespace:
    parser = parser_of(__doc__ or "")
    add = parser.add_argument
    add("--sae", type=Path, default=sae_folder("starter-14"), help="SAE folder (default: %(default)s)")
    add("--model", help="its host, where the folder's name for it does not load")
    add("--text", type=Path, nargs="+", default=[_ROOT / "README.md", _ROOT / "LICENSE"], help="text files")
    add("--context", type=int, default=128, help="tokens a block (default: %(default)s)")
    add("--blocks", type=int, default=32, help="blocks at most (default: %(default)s)")
    add("--peer-python", help="Python of an environment that has sae-lens")
    add("--saebench-python", help="Python of one that has sae-bench, where that is another")
    return parser.parse_args()


if __name__ == "__main__":
    main()
