"""The command line: `sae-train run CONFIG`, `evaluate FOLDER CONFIG`, `export RUN_DIR`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from sae_train import pipeline
from steerd.errors import SteerdError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status, 1 with one sentence on stderr for a user's mistake."""
    parsed = _parser().parse_args(arguments)
    try:
        if parsed.command == "run":
            _say(pipeline.run(parsed.config).provenance["metrics"])
        elif parsed.command == "export":
            _say(pipeline.export(parsed.run).provenance["metrics"])
        else:
            _say(pipeline.evaluate(parsed.folder, parsed.config))
    except SteerdError as error:
        sys.stderr.write(f"sae-train: {error}\n")
        return 1
    return 0


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
    return parser


if __name__ == "__main__":
    sys.exit(main())
