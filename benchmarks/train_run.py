"""A whole run, text to SAE: tokens a second and peak memory, next to SAELens's runner.

Same host, hook point, texts, context, batch sizes, buffer, width and k. Counted from the loaded host to the
last step: host forwards, cache or buffer, SAE steps. Both join the texts and cut them into blocks. Peak
memory is that of a second run of ours, of a full-size buffer, on the same activations. Ours runs once with
all threads in one process and once with them shared out over processes, as `torchrun` does.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.report import Report, Row, parser_of, report_for
from sae_train.corpus.counts import CorpusCounts
from sae_train.corpus.documents import TextDocument
from sae_train.corpus.reading import read_documents
from sae_train.corpus.source import SourceConfig
from steerd.host.default_host import default_host_folder

NAME = "train_run"
PEER_SCRIPT = Path(__file__).parent / "saelens_run.py"
LAYER = 14
SPEED_BOUND, MEMORY_BOUND_GIB = 2.0, 4.0

CONFIG = """
output = "{folder}/run-{buffer_rows}"
[host]
name = "{model}"
[[saes]]
hook_point = "blocks.{layer}.hook_resid_post"
d_sae = {d_sae}
k = {k}
learning_rate = {lr}
[data]
cache = "{folder}/cache"
tokens = {tokens}
held_out_tokens = 10000
context = {context}
document_tokens = 1000000
batch_tokens = {batch_tokens}
shard_tokens = 16384
[[data.sources]]
path = "{texts}"
mode = "block"
[training]
tokens = {tokens}
batch_size = {batch_size}
buffer_rows = {buffer_rows}
[evaluation]
cross_entropy_tokens = 2000
statistics_tokens = 50000
"""


@dataclass(frozen=True, slots=True)
class Timed:
    """What a run took."""

    seconds: float
    tokens: int
    peak_bytes: int

    @property
    def tokens_per_second(self) -> float:
        """Of the whole chain."""
        return self.tokens / self.seconds


def ours(spec: dict[str, Any], folder: Path, *, processes: int = 1) -> Timed:
    """`sae-train run`, its threads in one process or shared out; peak memory with evaluation and export."""
    folder.mkdir(exist_ok=True)
    config = folder / "config.toml"
    config.write_text(CONFIG.format(folder=folder, layer=LAYER, **spec))
    environment = os.environ | {"OMP_NUM_THREADS": str(max(1, spec["threads"] // processes))}
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
    command = [sys.executable, "-m", *(torchrun if processes > 1 else []), "sae_train", "run", str(config)]
    process = subprocess.Popen(command, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise RuntimeError(f"sae-train run ended with status {os.waitstatus_to_exitcode(status)}")
    log = folder / f"run-{spec['buffer_rows']}" / "log.jsonl"
    records = [json.loads(line) for line in log.read_text().splitlines()]
    held_out = next(r for r in records if r["event"] == "harvest" and r["split"] == "held_out")
    last = [record for record in records if record["event"] == "step"][-1]
    return Timed(last["time"] - held_out["time"], last["tokens"], usage.ru_maxrss * 1024)


def saelens(spec: dict[str, Any], folder: Path, peer_python: str) -> Timed:
    """SAELens's runner in its own environment."""
    path = folder / "spec.json"
    path.write_text(json.dumps(spec | {"hook_name": f"model.layers.{LAYER}"}))
    command = [peer_python, str(PEER_SCRIPT), str(path)]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return Timed(**json.loads(printed.splitlines()[-1]))


def write_texts(source: Path, path: Path, characters: int) -> None:
    """Write the first documents of a corpus file, about so many characters, one JSON object a line."""
    written = 0
    with path.open("w", encoding="utf-8") as file:
        for document in read_documents(SourceConfig(path=str(source), mode="block"), CorpusCounts()):
            if not isinstance(document, TextDocument):
                continue
            file.write(json.dumps({"text": document.text}) + "\n")
            written += len(document.text)
            if written >= characters:
                return


def measure(report: Report, options: argparse.Namespace) -> None:
    """Run both and compare."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_texts(options.texts, folder / "texts.jsonl", 8 * options.tokens)
        spec = {
            "model": str(default_host_folder()),
            "d_model": 576,
            "texts": str(folder / "texts.jsonl"),
            "threads": torch.get_num_threads(),
            "k": 32,
            "lr": 1e-3,
            **{key: getattr(options, key) for key in _SIZES},
        }
        results = {"steerd, 1 process": ours(spec, folder / "one")}
        full = ours(spec | {"buffer_rows": options.full_buffer_rows}, folder / "one")
        shared = f"steerd, {options.processes} processes"
        results[shared] = ours(spec, folder / "shared", processes=options.processes)
        if options.peer_python:
            results["saelens"] = saelens(spec, folder, options.peer_python)
    for system, timed in results.items():
        row: Row = {
            "system": system,
            "tokens": timed.tokens,
            "seconds": timed.seconds,
            "tokens_per_second": timed.tokens_per_second,
            "peak_gib_of_a_process": timed.peak_bytes / 2**30,
        }
        report.add_rows("end to end", [row])
    report.at_most("peak_memory_gib", full.peak_bytes / 2**30, MEMORY_BOUND_GIB)
    if "saelens" in results:
        best = max(timed.tokens_per_second for name, timed in results.items() if name != "saelens")
        report.at_least("speed_over_saelens", best / results["saelens"].tokens_per_second, SPEED_BOUND)


_SIZES = ("tokens", "context", "batch_tokens", "batch_size", "buffer_rows", "d_sae")


def main() -> None:
    """Run the benchmark."""
    parser = parser_of(__doc__ or "")
    parser.add_argument("--texts", type=Path, required=True, help="a corpus file of plain texts")
    parser.add_argument("--peer-python", help="Python of an environment with sae-lens; absent: ours alone")
    parser.add_argument("--tokens", type=int, default=200_000)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("--buffer-rows", type=int, default=32_768)
    parser.add_argument("--processes", type=int, default=2, help="of the run that shares its threads out")
    parser.add_argument("--full-buffer-rows", type=int, default=250_000)
    parser.add_argument("--d-sae", type=int, default=4608)
    options = parser.parse_args()
    report = report_for(NAME, options)
    measure(report, options)
    report.finish()


if __name__ == "__main__":
    main()
