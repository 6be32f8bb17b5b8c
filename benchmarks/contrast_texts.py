"""How long two sets of texts take to be contrasted, next to SAELens and SciPy doing the same.

Both sides get the same token ids, host, SAE and halves, and take turns over several rounds, each round begun
by the other one. What is timed goes from token ids to the list of features that differ: the host up to the
SAE's layer, the features of all rows, a test for each feature and its correction. The figures of every
feature that we tell have to be the peer's too. Our side is the study that the server runs, without its slices
having to wait for steps.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from rich.progress import track

from benchmarks.line_process import LineProcess, line_process
from benchmarks.report import Report, Row, parser_of, report_for
from sae_train.corpus.counts import CorpusCounts
from sae_train.corpus.documents import TextDocument
from sae_train.corpus.reading import read_documents
from sae_train.corpus.source import SourceConfig
from steerd.config import EngineConfig
from steerd.host.decoder_layers import find_decoder_layers
from steerd.host.default_host import default_host_folder
from steerd.host.host_model import HostModel
from steerd.host.text import encode_prompt
from steerd.sae.sae_file import load_sae
from steerd.starters import sae_folder
from steerd.steering.loaded_saes import LoadedSaes
from steerd.studies.contrast import Contrasting, Deal
from steerd.studies.contrast_table import Contrast, ContrastWish

NAME = "contrast_texts"
PEER_SCRIPT = Path(__file__).parent / "contrast_peer.py"
SPEED_BOUND, TOLERANCE = 1.0, 1e-4
FIGURES = ("text_rate", "mean_peak")

Ids = tuple[tuple[int, ...], ...]


class Ours:
    """The study of the server, in this process."""

    def __init__(self, host: HostModel, sae: str, a: Ids, b: Ids, slice_tokens: int) -> None:
        self.host = host
        self.saes = LoadedSaes(host)
        self.saes.add(sae, load_sae(sae_folder(sae)))
        self.wish = ContrastWish(a, b, (sae,), "peak", 0.05, 100_000, 0, include_special_tokens=False)
        self._slice_tokens = slice_tokens
        self.contrast: Contrast | None = None

    def run(self) -> dict[str, float]:
        """Seconds until all texts are read, and those that statistics take."""
        study = Contrasting(self.host, self.saes, self.wish, slice_tokens=self._slice_tokens)
        started = time.perf_counter()
        with torch.inference_mode():
            for _ in study.run():
                pass
            encoded = time.perf_counter()
            self.contrast = study.result()
        return {"encode": encoded - started, "compare": time.perf_counter() - encoded}

    def spec(self, options: argparse.Namespace) -> dict[str, Any]:
        """What the peer is told."""
        (sae,) = self.saes
        layer = find_decoder_layers(self.host.model, self.host.num_layers)[sae.hook_point.layer]
        deal = Deal.of(len(self.wish.a), len(self.wish.b), self.wish.seed)
        return {
            "host_folder": str(default_host_folder()),
            "sae_folder": str(sae_folder(sae.name).resolve()),
            "layer_module": next(n for n, module in self.host.model.named_modules() if module is layer),
            "texts": [list(text) for text in (*self.wish.a, *self.wish.b)],
            "num_a": len(self.wish.a),
            "held_out": deal.order[deal.is_held_out].tolist(),
            "uncounted": sorted(self.host.special_token_ids),
            "batch_texts": options.peer_batch,
            "threads": options.threads,
        }


def main() -> None:
    """Measure, compare, write."""
    options = _options()
    torch.set_num_threads(options.threads)
    report = report_for(NAME, options)
    host = HostModel.load("smollm2-135m-instruct")
    a, b = (texts_of(host, options.texts, source, options) for source in options.sources)
    ours = Ours(host, options.sae, a, b, options.slice_tokens)
    with tempfile.TemporaryDirectory() as folder:
        spec, table = Path(folder) / "spec.json", Path(folder) / "table.npz"
        spec.write_text(json.dumps(ours.spec(options)), encoding="utf-8")
        with line_process(
            [options.peer_python, str(PEER_SCRIPT), str(spec)], threads=options.threads
        ) as peer:
            times = measure(ours, peer, rounds=1 if options.quick else options.rounds)
            peer.ask({"table": str(table)})
        assert ours.contrast is not None
        with np.load(table, allow_pickle=False) as found:
            compare(report, ours.contrast, dict(found))
    tell(report, times, sum(map(len, (*a, *b))))
    report.finish()


def measure(ours: Ours, peer: LineProcess, *, rounds: int) -> dict[str, list[dict[str, float]]]:
    """Seconds of every run after one of each that is not counted, by system."""
    systems: dict[str, Callable[[], dict[str, float]]] = {
        "steerd": ours.run,
        "SAELens": lambda: peer.ask({"run": True}),
    }
    for run in systems.values():
        run()
    times = defaultdict(list)
    for number in track(range(rounds), "measuring", transient=True):
        for name in sorted(systems, reverse=number % 2 == 0):
            times[name].append(systems[name]())
    return times


def tell(report: Report, times: dict[str, list[dict[str, float]]], tokens: int) -> None:
    """Medians of each part, and the ratio of the whole, round by round."""
    totals = {name: [sum(run.values()) for run in runs] for name, runs in times.items()}
    rows: list[Row] = [
        {
            "system": name,
            "texts to peaks, s": median(run["encode"] for run in runs),
            "statistics, s": median(run["compare"] for run in runs),
            "whole, s": median(totals[name]),
            "tokens a second": tokens / median(totals[name]),
        }
        for name, runs in times.items()
    ]
    report.add_rows(f"{tokens} tokens", rows)
    ratios = [theirs / ours for theirs, ours in zip(totals["SAELens"], totals["steerd"], strict=True)]
    report.at_least("times_as_fast_as_saelens", median(ratios), SPEED_BOUND)


def compare(report: Report, contrast: Contrast, table: dict[str, Any]) -> None:
    """The figures of every feature that we tell, and which features either side finds."""
    largest = 0.0
    for feature in contrast.features:
        index, found = feature.feature.index, feature.discovery
        pairs = [(found.cliffs_delta, table["cliffs_delta"][index])]
        for name in FIGURES:
            pairs += [(getattr(found.a, name), table[f"{name}_a"][index])]
            pairs += [(getattr(found.b, name), table[f"{name}_b"][index])]
        largest = max(largest, *(abs(x - y) / max(abs(y), 1.0) for x, y in pairs))
    ours = {f.feature.index for f in contrast.features}
    confirmed = {f.feature.index for f in contrast.features if f.confirmed}
    theirs, their_confirmed = (set(table[name].tolist()) for name in ("found", "confirmed"))
    report.add_rows(
        "features that differ",
        [_agreement("found", ours, theirs), _agreement("confirmed", confirmed, their_confirmed)],
    )
    report.at_most("largest_difference_of_a_figure", float(largest), TOLERANCE)


def _agreement(name: str, ours: set[int], theirs: set[int]) -> Row:
    return {"features": name, "steerd": len(ours), "SAELens": len(theirs), "both": len(ours & theirs)}


def texts_of(host: HostModel, path: Path, source: str, options: argparse.Namespace) -> Ids:
    """The first texts of a source, each cut to so many tokens."""
    count, found = 40 if options.quick else options.count, []
    for document in read_documents(SourceConfig(path=str(path), mode="block"), CorpusCounts()):
        if document.source == source and isinstance(document, TextDocument):
            ids = encode_prompt(host.tokenizer, document.text[: 20 * options.tokens])[: options.tokens]
            if len(ids) > 1:
                found.append(tuple(ids))
        if len(found) == count:
            return tuple(found)
    raise SystemExit(f"{path.name} has {len(found)} texts of {source!r}; {count} are needed")


def _options() -> argparse.Namespace:
    parser = parser_of(__doc__ or "")
    add = parser.add_argument
    add("--texts", type=Path, required=True, help="a .jsonl or .jsonl.zst file with text and source")
    add("--sources", nargs=2, required=True, metavar="SOURCE", help="whose texts are A and B")
    add("--peer-python", required=True, help="Python of an environment that has sae-lens")
    add("--count", type=int, default=500, help="texts of each set (default: %(default)s)")
    add("--tokens", type=int, default=128, help="tokens of a text at most (default: %(default)s)")
    add("--sae", default="starter-14", help="a starter SAE (default: %(default)s)")
    rows = EngineConfig().idle_study_tokens
    add("--slice-tokens", type=int, default=rows, help="rows of a slice (default: %(default)s)")
    add("--peer-batch", type=int, default=16, help="texts of a batch of the peer (default: %(default)s)")
    add("--threads", type=int, default=1, help="of both sides (default: %(default)s)")
    add("--rounds", type=int, default=5, help="of both sides (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
