"""What a head in 8 bits costs in accuracy and gives in speed: the default host with weights = "int8_head".

Accuracy is next to float32 on the same blocks of text: how far the next-token distributions are apart, how
often the likeliest token is the same, and the perplexity of both. The residual stream, and so all that SAEs
read, has to be the same to the bit. Speed is that of steerd's engine with nothing asked of it, both hosts in
interleaved rounds.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from benchmarks.engine_overhead import Point, System, measure_point
from benchmarks.generation_systems import load_endless_host
from benchmarks.report import Report, parser_of, report_for
from benchmarks.steerd_system import SteerdEngine
from steerd.config import EngineConfig
from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel
from steerd.host.text import encode_prompt
from steerd.starters import sae_folder

NAME = "int8_head"

KL_BOUND = 0.01
TOP_1_BOUND = 0.95
SPEED_BOUND = 1.0

_ROOT = Path(__file__).parent.parent


@dataclass(slots=True)
class Comparison:
    """What was found over all blocks, a value for each token, [tokens]."""

    kl: Tensor
    same: Tensor
    loss: Tensor
    loss_int8: Tensor


def main() -> None:
    """Measure, print, write."""
    options = _options()
    report = report_for(NAME, options)
    plain, small = load_endless_host(), load_endless_host(weights="int8_head")
    if "accuracy" in options.parts:
        measure_accuracy(report, plain, small, options)
    if "speed" in options.parts:
        measure_speed(report, plain, small, options)
    report.finish()


def measure_accuracy(report: Report, plain: HostModel, small: HostModel, options: argparse.Namespace) -> None:
    """Both hosts on the same blocks."""
    blocks = list(text_blocks(plain, options))
    found = compare(plain, small, blocks)
    point = HookPoint(plain.num_layers - 1, "resid_post")
    difference = max(
        float((rows_at(plain, point, ids) - rows_at(small, point, ids)).abs().max()) for ids in blocks
    )
    report.add_rows(
        f"A head in 8 bits next to float32, {len(found.kl)} tokens",
        [
            {
                "KL mean, nats": float(found.kl.mean()),
                "KL median": float(found.kl.median()),
                "KL 99th percentile": float(found.kl.quantile(0.99)),
                "top-1 agreement": float(found.same.float().mean()),
                "perplexity": math.exp(found.loss.mean()),
                "perplexity, int8": math.exp(found.loss_int8.mean()),
                "residual stream, largest difference": difference,
            }
        ],
    )
    report.at_most("kl_mean", float(found.kl.mean()), KL_BOUND)
    report.at_least("top_1_agreement", float(found.same.float().mean()), TOP_1_BOUND)
    report.at_most("residual_stream_difference", difference, 0.0)


def compare(plain: HostModel, small: HostModel, blocks: list[list[int]]) -> Comparison:
    """The next-token distributions of the two, KL(float32 || int8) in nats."""
    parts: list[tuple[Tensor, ...]] = []
    for ids in blocks:
        expected, got = (log_probabilities(host, ids) for host in (plain, small))  # [tokens, vocab]
        chosen = torch.tensor(ids[1:]).unsqueeze(1)
        parts.append(
            (
                (expected.exp() * (expected - got)).sum(dim=-1),
                expected.argmax(dim=-1) == got.argmax(dim=-1),
                -expected[:-1].gather(1, chosen).squeeze(1),
                -got[:-1].gather(1, chosen).squeeze(1),
            )
        )
    return Comparison(*(torch.cat(column) for column in zip(*parts, strict=True)))


@torch.inference_mode()
def log_probabilities(host: HostModel, ids: list[int]) -> Tensor:
    """Log-probabilities of the next token after each, [tokens, vocab]."""
    logits: Tensor = host.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    return logits.float().log_softmax(dim=-1)


def rows_at(host: HostModel, point: HookPoint, ids: list[int]) -> Tensor:
    """The rows of a block, [tokens, d_model]."""
    return host.activations(torch.tensor([ids]), None, [point])[point][0]


def text_blocks(host: HostModel, options: argparse.Namespace) -> Iterator[list[int]]:
    """Blocks of one length from the texts."""
    text = "\n\n".join(path.read_text(encoding="utf-8") for path in options.text)
    ids = encode_prompt(host.tokenizer, text)[: options.tokens if not options.quick else 512]
    starts = range(0, len(ids) - 1, options.context)
    return (ids[start : start + options.context] for start in starts)


def measure_speed(report: Report, plain: HostModel, small: HostModel, options: argparse.Namespace) -> None:
    """Decode tokens a second of both, in interleaved rounds."""
    config = EngineConfig(share_prefixes=False)  # the same prompts come again every round
    engines = [SteerdEngine(host, options.sae, config, steered=False) for host in (plain, small)]
    systems: dict[str, System] = dict(zip(("float32", "int8"), engines, strict=True))
    decode_tokens, rounds = (12, 1) if options.quick else (48, options.rounds)
    try:
        for engine in engines:
            engine([[1] * 16], 4)  # the first call of a process allocates
        for point in (Point(batch, context) for batch, context in product(options.batch, options.contexts)):
            num_new = point.num_new(decode_tokens, config.max_batch_tokens)
            rates = measure_point(systems, point.prompts(), num_new, rounds, 0.0)
            ratio = median(
                ours / theirs
                for ours, theirs in zip(rates["int8"].decode, rates["float32"].decode, strict=True)
            )
            report.add_rows(
                "Decode tokens a second",
                [
                    {
                        "batch": point.batch,
                        "context": point.context,
                        **{name: median(found.decode) for name, found in rates.items()},
                        "int8 / float32": ratio,
                    }
                ],
            )
            report.at_least(f"int8_over_float32.{point}", ratio, SPEED_BOUND)
    finally:
        for engine in engines:
            engine.close()


def _options() -> argparse.Namespace:
    parser = parser_of(__doc__ or "")
    add = parser.add_argument
    add("--sae", type=Path, default=sae_folder("starter-14"), help="SAE folder (default: starter-14)")
    add("--text", type=Path, nargs="+", default=[_ROOT / "README.md", _ROOT / "LICENSE"], help="text files")
    add("--tokens", type=int, default=4096, help="tokens of text at most (default: %(default)s)")
    add("--context", type=int, default=256, help="tokens a block (default: %(default)s)")
    add("--rounds", type=int, default=4, help="rounds a point (default: %(default)s)")
    add("--batch", type=int, nargs="+", default=(1, 16), help="requests at once")
    add("--contexts", type=int, nargs="+", default=(64, 512), help="tokens of their prompts")
    add("--parts", nargs="+", choices=("accuracy", "speed"), default=("accuracy", "speed"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
