"""The command line: `sae-train run CONFIG`, `evaluate FOLDER CONFIG`, `export RUN_DIR`, `import SOURCE`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from sae_train import pipeline
from sae_train.formats.import_sae import AUTO, FORMATS, import_sae
from sae_train.formats.layout import ImportOptions
from steerd.errors import SteerdError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status, 1 with one sentence on stderr for a user's mistake."""
    parsed = _parser().parse_args(arguments)
    try:
        if parsed.command == "run":
            _say(pipeline.run(parsed.config).provenance["metrics"])
        elif parsed.command == "import":
            _say(_import(parsed))
        elif parsed.command == "export":
            _say(pipeline.export(parsed.run).provenance["metrics"])
        else:
            _say(pipeline.evaluate(parsed.folder, parsed.config))
    except SteerdError as error:
        sys.stderr.write(f"sae-train: {error}\n")
        return 1
    return 0


def _import(parsed: argparse.Namespace) -> dict[str, object]:
    imported = import_sae(
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
    return imported.summary()


def _say(metrics: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(metrics, indent=2) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sae-train", description="Train the sparse autoencoders that steerd serves."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser(
        "run", help="harvest activations, train, evaluate and export; goes on where it stopped"
    )
    run.add_argument("config", type=Path, metavar="CONFIG.toml")
    export = commands.add_parser("export", help="export a finished run again")
    export.add_argument("run", type=Path, metavar="RUN_DIR")
    evaluate = commands.add_parser("evaluate", help="measure an SAE folder on held-out tokens")
    evaluate.add_argument("folder", type=Path, metavar="FOLDER")
    evaluate.add_argument("config", type=Path, metavar="CONFIG.toml")
    _add_import(commands.add_parser("import", help="turn another tool's SAE files into an SAE folder"))
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
    add("--keep-decoder-norms", action="store_true", help="keep the layout's own activation values")


if __name__ == "__main__":
    sys.exit(main())
