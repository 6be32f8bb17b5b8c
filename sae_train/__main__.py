"""The command line: `sae-train run CONFIG`, `evaluate FOLDER CONFIG`, `labels FOLDER CONFIG`,
`export RUN_DIR`, `import SOURCE`, `match FOLDER FOLDER`, `dedup INPUT`, `known-truth`, `report RUN_DIR`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sae_train import pipeline
from sae_train.architectures.catalogue import SETTINGS
from sae_train.corpus.deduplication import GRAM_LENGTH, deduplicate
from sae_train.evaluation.seed_match import match_folders
from sae_train.formats.import_sae import AUTO, FORMATS, import_sae, summary
from sae_train.formats.layout import ImportOptions
from sae_train.known_truth.command import known_truth
from sae_train.known_truth.presets import PRESETS
from sae_train.labels.label_options import add_label_options, label_wish
from sae_train.report.make_reports import Request, make_reports
from steerd.errors import SteerdError
from steerd.sae.sae_file import SaeMetadata

JsonObject = dict[str, Any]  # Any: JSON values
"""What a command answers, printed as JSON."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status, 1 with one sentence on stderr for a user's mistake."""
    parsed = make_parser().parse_args(arguments)
    try:
        answer = parsed.act(parsed)
    except SteerdError as error:
        sys.stderr.write(f"sae-train: {error}\n")
        return 1
    if answer is not None:
        sys.stdout.write(json.dumps(answer, indent=2) + "\n")
    return 0


def _run(parsed: argparse.Namespace) -> JsonObject:
    return _metrics(pipeline.run(parsed.config))


def _export(parsed: argparse.Namespace) -> JsonObject:
    return _metrics(pipeline.export(parsed.run))


def _evaluate(parsed: argparse.Namespace) -> JsonObject:
    return _numbers(pipeline.evaluate(parsed.folder, parsed.config))


def _labels(parsed: argparse.Namespace) -> JsonObject:
    return pipeline.label(parsed.folder, parsed.config, label_wish(parsed))


def _metrics(exported: Sequence[SaeMetadata]) -> JsonObject:
    return {metadata.name: _numbers(metadata.provenance["metrics"]) for metadata in exported}


def _numbers(metrics: JsonObject) -> JsonObject:
    """The record without its histograms, which are for machines and stay in the files."""
    return {
        name: value
        for name, value in metrics.items()
        if not isinstance(value, list | dict) or name == "warnings"
    }


def _import(parsed: argparse.Namespace) -> JsonObject:
    metadata = import_sae(
        parsed.source,
        parsed.output,
        ImportOptions(
            hook_point=parsed.hook_point,
            model=parsed.model,
            activation_scale=parsed.activation_scale,
            k=parsed.k,
        ),
        format_name=parsed.format,
        keep_decoder_norms=parsed.keep_decoder_norms,
    )
    return summary(metadata)


def _match(parsed: argparse.Namespace) -> JsonObject:
    return dataclasses.asdict(match_folders(parsed.folder_a, parsed.folder_b))


def _known_truth(parsed: argparse.Namespace) -> None:
    known_truth(
        parsed.preset,
        architectures=parsed.architectures,
        learning_rates=parsed.learning_rates,
        samples=parsed.samples,
        l0=parsed.l0,
        seeds=parsed.seeds,
        device=parsed.device,
        output=parsed.output,
    )


def _dedup(parsed: argparse.Namespace) -> JsonObject:
    found = deduplicate(
        parsed.inputs,
        parsed.output,
        length=parsed.ngram,
        against=parsed.against,
        on_bad_line=parsed.on_bad_line,
    )
    return found.as_json()


def _report(parsed: argparse.Namespace) -> JsonObject:
    request = Request(
        path=parsed.path,
        sae=parsed.sae,
        output=parsed.output,
        features=parsed.features,
        tokens=parsed.tokens,
        compare=parsed.compare,
        use_host=not parsed.no_host,
    )
    return {"pages": [str(page) for page in make_reports(request)]}


def make_parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    parser = argparse.ArgumentParser(
        prog="sae-train", description="Train the sparse autoencoders that steerd serves."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser(
        "run", help="harvest activations, train, evaluate and export; goes on where it stopped"
    )
    run.add_argument("config", type=Path, metavar="CONFIG.toml")
    run.set_defaults(act=_run)
    export = commands.add_parser("export", help="export a finished run again")
    export.add_argument("run", type=Path, metavar="RUN_DIR")
    export.set_defaults(act=_export)
    evaluate = commands.add_parser("evaluate", help="measure an SAE folder on held-out tokens")
    evaluate.add_argument("folder", type=Path, metavar="FOLDER")
    evaluate.add_argument("config", type=Path, metavar="CONFIG.toml")
    evaluate.set_defaults(act=_evaluate)
    labels = commands.add_parser("labels", help="test the labels of an SAE folder on held-out tokens")
    add_label_options(labels)
    labels.set_defaults(act=_labels)
    _add_import(commands.add_parser("import", help="turn another tool's SAE files into an SAE folder"))
    match = commands.add_parser("match", help="compare the features of two SAE folders, such as two seeds")
    match.add_argument("folder_a", type=Path, metavar="FOLDER")
    match.add_argument("folder_b", type=Path, metavar="FOLDER")
    match.set_defaults(act=_match)
    _add_dedup(commands.add_parser("dedup", help="leave out documents that share words in a row with others"))
    _add_report(commands.add_parser("report", help="write a page to look at an SAE and its features"))
    _add_known_truth(commands.add_parser("known-truth", help="see how much of a known truth SAEs find"))
    return parser


def _add_import(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("source", type=Path, metavar="SOURCE", help="the folder, or its weights file")
    add("--output", type=Path, required=True, metavar="FOLDER", help="the SAE folder to write")
    add("--format", choices=FORMATS, default=AUTO, help="the files' layout (default: %(default)s)")
    add("--hook-point", metavar="blocks.L.hook_SITE", help="where it reads, if no file says it")
    add("--model", metavar="NAME", help="the host's name, in place of the files'")
    add("--activation-scale", type=float, metavar="S", help="what its inputs were multiplied by, likewise")
    add("--k", type=int, help="active features of a TopK, likewise")
    parser.set_defaults(act=_import)
    add("--keep-decoder-norms", action="store_true", help="keep the layout's own activation values")


def _add_dedup(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("inputs", nargs="+", metavar="INPUT", help=".jsonl, .jsonl.zst, .txt, .parquet or hf:OWNER/NAME")
    add("--output", type=Path, metavar="FILE", help=".jsonl or .jsonl.zst to write (default: count only)")
    add("--ngram", type=int, default=GRAM_LENGTH, metavar="N", help="words in a row (default: %(default)s)")
    add(
        "--against",
        nargs="+",
        default=(),
        metavar="FILE",
        help="drop what is in these too, say held-out files",
    )
    add("--on-bad-line", choices=("error", "skip"), default="error", help="(default: %(default)s)")
    parser.set_defaults(act=_dedup)


def _add_known_truth(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--preset", choices=tuple(PRESETS), default="small", help="the data set (default: %(default)s)")
    add("--architectures", nargs="+", choices=tuple(SETTINGS), default=list(SETTINGS), metavar="NAME")
    add("--learning-rates", nargs="+", type=float, default=[], metavar="R", help="each tried (default: one)")
    add("--samples", type=int, help="rows to train on (default: the preset's)")
    add("--l0", type=int, help="active features a row to aim at, likewise")
    add("--seeds", type=int, default=1, help="times that all is trained (default: %(default)s)")
    add("--device", default="cpu")
    add("--output", type=Path, metavar="FILE.json", help="also write every SAE's scores")
    parser.set_defaults(act=_known_truth)


def _add_report(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("path", type=Path, metavar="RUN_DIR|SAE_FOLDER", help="a run, for a page an SAE, or one SAE's folder")
    add("--sae", metavar="NAME", help="only this one of the run's SAEs")
    add("--output", type=Path, metavar="FILE.html", help="default: RUN_DIR/reports/NAME.html, or NAME.html")
    add("--features", type=int, metavar="N", help="list the first N features only")
    add(
        "--tokens", type=int, metavar="N", help="cached tokens to take contexts from (default: as the export)"
    )
    add("--compare", type=Path, nargs="+", default=(), metavar="SAE_FOLDER", help="SAEs for the frontier")
    add("--no-host", action="store_true", help="leave out what needs the host: output tokens, more contexts")
    parser.set_defaults(act=_report)


if __name__ == "__main__":
    sys.exit(main())
