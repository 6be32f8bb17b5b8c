"""How long texts take to be encoded by a server, next to SAELens doing the same in its own process.

Both sides get the same token ids and give every active feature of every token, as numbers and values in
flat arrays; ours come through gRPC, token texts with them. Both take turns over several rounds, each round
begun by the other one. The codes of both are compared: a feature counts as shared when both sides have it on
the same token, and values are compared where they do.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.progress import track

from benchmarks.line_process import LineProcess, line_process
from benchmarks.report import Report, Row, parser_of, report_for
from sae_train.corpus.counts import CorpusCounts
from sae_train.corpus.documents import TextDocument
from sae_train.corpus.reading import read_documents
from sae_train.corpus.source import SourceConfig
from steerd.cli.server_process import free_ports, server_process, stop, wait_until_serving
from steerd.feature_client import FeatureClient
from steerd.host.decoder_layers import find_decoder_layers
from steerd.host.default_host import default_host_folder
from steerd.host.host_model import HostModel
from steerd.host.text import encode_prompt
from steerd.sae.sae_file import load_sae
from steerd.starters import STARTERS, sae_folder
from steerd.steering.loaded_saes import LoadedSaes
from steerd.studies.encoded_tokens import EncodedTokens
from steerd.study_wire.encode import EncodeCall
from steerd.study_wire.study_text import StudyText

NAME = "encode_texts"
PEER_SCRIPT = Path(__file__).parent / "encode_peer.py"
SPEED_BOUND, TOLERANCE, SHARED_BOUND = 1.0, 1e-3, 0.9999
SERVER_SECONDS = 300.0

Ids = list[list[int]]


@dataclass(frozen=True, slots=True)
class Codes:
    """All tokens' features of one SAE, text by text: counts [tokens], features and values [entries]."""

    counts: np.ndarray[Any, Any]
    features: np.ndarray[Any, Any]
    values: np.ndarray[Any, Any]

    def pairs(self, d_sae: int) -> np.ndarray[Any, Any]:
        """One number for each token and feature."""
        tokens = np.repeat(np.arange(len(self.counts)), self.counts)
        pairs: np.ndarray[Any, Any] = tokens * d_sae + self.features
        return pairs


class Ours:
    """A server that is asked over gRPC."""

    def __init__(self, client: FeatureClient, texts: Ids, saes: Sequence[str]) -> None:
        self._client = client
        studied = tuple(StudyText(token_ids=tuple(ids)) for ids in texts)
        self._call = EncodeCall(texts=studied, full_codes=True, saes=tuple(saes))
        self._parts: list[EncodedTokens] = []

    def run(self) -> float:
        """Encode all texts; the seconds until the last code is here."""
        started = time.perf_counter()
        events = list(self._client.encode(self._call))
        seconds = time.perf_counter() - started
        self._parts = [event for event in events if isinstance(event, EncodedTokens)]
        self._parts.sort(key=lambda part: (part.text, part.first_position))
        return seconds

    def codes(self, number: int) -> Codes:
        """Those of one SAE in the last run."""
        of_sae = [part.codes[number] for part in self._parts]
        counts, features, values = (
            np.concatenate([getattr(codes, column) for codes in of_sae])
            for column in ("counts", "features", "values")
        )
        return Codes(counts, features, values)


def main() -> None:
    """Measure, compare, write."""
    options = _options()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # the server's
    report = report_for(NAME, options)
    host = HostModel.load("smollm2-135m-instruct")
    texts = texts_of(host, options.texts, 5000 if options.quick else options.tokens, options.text_tokens)
    choices = [("starter-14",)] if options.quick else [("starter-14",), STARTERS]
    for saes in choices:
        compare(report, options, host, texts, saes)
    report.finish()


def compare(
    report: Report, options: argparse.Namespace, host: HostModel, texts: Ids, saes: Sequence[str]
) -> None:
    """One choice of SAEs, on both sides."""
    with tempfile.TemporaryDirectory(prefix="steerd-benchmark-") as folder:
        spec = Path(folder) / "spec.json"
        spec.write_text(json.dumps(spec_of(host, texts, saes, options)), encoding="utf-8")
        command = [options.peer_python, str(PEER_SCRIPT), str(spec)]
        with line_process(command, threads=options.threads) as peer, serving(Path(folder)) as client:
            ours = Ours(client, texts, saes)
            times = measure(ours, peer, rounds=1 if options.quick else options.rounds)
            tell(report, times, sum(map(len, texts)), saes)
            for number, sae in enumerate(saes):
                path = Path(folder) / "codes.npz"
                peer.ask({"codes": str(path), "sae": number})
                with np.load(path, allow_pickle=False) as found:
                    theirs = Codes(found["counts"], found["features"], found["values"])
                agree(report, f"{len(saes)}.{sae}", ours.codes(number), theirs)


def measure(ours: Ours, peer: LineProcess, *, rounds: int) -> dict[str, list[float]]:
    """Seconds of every run after one of each that is not counted, by system."""
    systems: dict[str, Callable[[], float]] = {
        "steerd": ours.run,
        "SAELens": lambda: float(peer.ask({"run": True})["seconds"]),
    }
    for run in systems.values():
        run()
    times = defaultdict(list)
    for number in track(range(rounds), "measuring", transient=True):
        for name in sorted(systems, reverse=number % 2 == 0):
            times[name].append(systems[name]())
    return times


def tell(report: Report, times: dict[str, list[float]], tokens: int, saes: Sequence[str]) -> None:
    """Medians, and the ratio round by round."""
    rows: list[Row] = [
        {"system": name, "median, s": median(runs), "tokens a second": tokens / median(runs)}
        for name, runs in times.items()
    ]
    report.add_rows(f"{tokens} tokens, every feature of {', '.join(saes)}", rows)
    ratios = [theirs / ours for theirs, ours in zip(times["SAELens"], times["steerd"], strict=True)]
    report.at_least(f"times_as_fast_as_saelens.{len(saes)}", median(ratios), SPEED_BOUND)


def agree(report: Report, name: str, ours: Codes, theirs: Codes) -> None:
    """How much of the codes both sides have, and how far their values are apart there."""
    d_sae = int(max(ours.features.max(), theirs.features.max())) + 1
    shared, mine, other = np.intersect1d(ours.pairs(d_sae), theirs.pairs(d_sae), return_indices=True)
    apart = np.abs(ours.values[mine] - theirs.values[other]) / np.maximum(np.abs(theirs.values[other]), 1.0)
    report.at_least(
        f"shared_share.{name}", len(shared) / max(len(ours.values), len(theirs.values)), SHARED_BOUND
    )
    report.at_most(f"largest_difference.{name}", float(apart.max()), TOLERANCE)


@contextmanager
def serving(folder: Path) -> Iterator[FeatureClient]:
    """A server with its defaults."""
    grpc_port, metrics_port = free_ports(2)
    config, address = folder / "server.toml", f"127.0.0.1:{grpc_port}"
    config.write_text(f"[server]\nport = {grpc_port}\n[monitoring]\nport = {metrics_port}\n")
    with server_process(config, log=folder / "server.log") as process:
        wait_until_serving(process, address, timeout_seconds=SERVER_SECONDS)
        with FeatureClient(address) as client:
            yield client
        stop(process, timeout_seconds=SERVER_SECONDS)


def spec_of(host: HostModel, texts: Ids, saes: Sequence[str], options: argparse.Namespace) -> dict[str, Any]:
    """What the peer is told."""
    loaded = LoadedSaes(host)
    layers = find_decoder_layers(host.model, host.num_layers)
    names = {id(module): name for name, module in host.model.named_modules()}
    points = [loaded.add(name, load_sae(sae_folder(name))).hook_point for name in saes]
    return {
        "host_folder": str(default_host_folder()),
        "sae_folders": [str(sae_folder(name).resolve()) for name in saes],
        "layer_modules": [names[id(layers[point.layer])] for point in points],
        "texts": texts,
        "batch_texts": options.peer_batch,
        "threads": options.threads,
    }


def texts_of(host: HostModel, path: Path, tokens: int, text_tokens: int) -> Ids:
    """Texts of a corpus file, each cut to so many tokens, of so many together."""
    found: Ids = []
    for document in read_documents(SourceConfig(path=str(path), mode="block"), CorpusCounts()):
        if isinstance(document, TextDocument):
            room = min(text_tokens, tokens - sum(map(len, found)))
            found.append(encode_prompt(host.tokenizer, document.text[: 20 * text_tokens])[:room])
        if sum(map(len, found)) >= tokens:
            return found
    raise SystemExit(f"{path.name} has fewer than {tokens} tokens")


def _options() -> argparse.Namespace:
    parser = parser_of(__doc__ or "")
    add = parser.add_argument
    add("--texts", type=Path, required=True, help="a .jsonl or .jsonl.zst file with text")
    add("--peer-python", required=True, help="Python of an environment that has sae-lens")
    add("--tokens", type=int, default=100_000, help="of all texts together (default: %(default)s)")
    add("--text-tokens", type=int, default=256, help="of a text at most (default: %(default)s)")
    add("--peer-batch", type=int, default=8, help="texts of a batch of the peer (default: %(default)s)")
    add("--threads", type=int, default=1, help="of both sides (default: %(default)s)")
    add("--rounds", type=int, default=3, help="of both sides (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
