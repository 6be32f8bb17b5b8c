"""Whether imported SAE files compute what the tools that wrote them compute.

Each peer, in its own environment, writes SAEs of every class that it has, with random weights, and what its
own code computes from random rows. Every one is then brought in by the importer and compared: activations
(with the layout's decoder norms kept), reconstructions (also with unit decoder rows, as the import is by
default), and which features are active. Files that have no plain form must be refused, for the right reason.
Where a peer's environment has SAELens, it also loads every imported folder.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.format_peers.case_files import EXPECTED, Case, Expected, read_cases, read_expected
from benchmarks.report import Report, Row, parser_of, report_for
from sae_train.formats.import_sae import import_sae
from sae_train.formats.layout import ImportOptions
from steerd.errors import SteerdError
from steerd.sae.sae_file import load_sae

NAME = "format_agreement"
PEER_PYTHONS = "STEERD_PEER_PYTHONS"
BOUND = 1e-5

# The module that must be importable -> the scripts that write its cases.
PEERS = {
    "sae_lens": ("saelens_cases", "saelens_release_cases"),
    "dictionary_learning": ("dictionary_learning_cases",),
    "sparsify": ("sparsify_cases",),
    "sparse_autoencoder": ("openai_cases",),
}
_PACKAGE = "benchmarks.format_peers"
_ROOT = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Agreement:
    """The largest differences of one case; `active` counts the activations that only one side has above 0.

    `unit_recon` is of the default import, with unit decoder rows where these can be had.
    """

    acts: float
    recon: float
    unit_recon: float
    active: int
    l0: float


def peer_pythons() -> list[str]:
    """The Pythons that the environment names, separated as paths are."""
    return [path for path in os.environ.get(PEER_PYTHONS, "").split(os.pathsep) if path]


def main() -> None:
    """Write the cases, import them, print, write."""
    options = _options()
    report = report_for(NAME, options)
    with tempfile.TemporaryDirectory() as folder:
        cases = Path(folder) / "cases"
        missing = write_cases(cases, options.peer_python)
        if missing:
            print(f"left out, in none of the environments given: {', '.join(missing)}")
        _add_agreements(report, cases)
        _add_saelens(report, cases, options.peer_python)
    report.finish()


def write_cases(folder: Path, pythons: Sequence[str]) -> list[str]:
    """Let each peer write its cases, in the first environment that has it; returns those that none has."""
    homes = {module: next((python for python in pythons if _has(python, module)), None) for module in PEERS}
    for module, python in homes.items():
        if python is not None:
            for script in PEERS[module]:
                _run(python, "-m", f"{_PACKAGE}.{script}", str(folder))
    return [module for module, python in homes.items() if python is None]


def read_with_saelens(folder: Path, pythons: Sequence[str]) -> bool:
    """Let SAELens load every imported folder of the cases; false where no environment has it."""
    python = next((python for python in pythons if _has(python, "sae_lens")), None)
    if python is not None:
        _run(python, "-m", f"{_PACKAGE}.saelens_reading", str(folder))
    return python is not None


def measure(folder: Path, case: Case) -> Agreement:
    """Import the case twice, with the layout's decoder norms and without, and compare."""
    expected = read_expected(folder / EXPECTED)
    kept = _imported(folder, case, keep_decoder_norms=True)
    unit = _imported(folder, case, keep_decoder_norms=False)
    return Agreement(
        acts=_largest(kept.acts, expected.acts),
        recon=_largest(kept.recon, expected.recon),
        unit_recon=_largest(unit.recon, expected.recon),
        active=int(
            ((kept.acts > 0) != (expected.acts > 0)).sum() + ((unit.acts > 0) != (kept.acts > 0)).sum()
        ),
        l0=float((expected.acts > 0).float().sum(dim=1).mean()),
    )


def refusal(folder: Path, case: Case) -> str:
    """The sentence with which the importer refuses the case; empty where it does not."""
    try:
        _imported(folder, case, keep_decoder_norms=False)
    except SteerdError as error:
        return str(error)
    return ""


def _add_agreements(report: Report, cases: Path) -> None:
    agreements: list[Row] = []
    refusals: list[Row] = []
    for folder, case in read_cases(cases):
        place: dict[str, str | int | float] = {"peer": case.peer, "layout": case.layout, "kind": case.kind}
        if case.refused:
            reason = refusal(folder, case)
            said = "yes" if case.refused in reason else f"no: {reason or 'it was imported'}"
            refusals.append({**place, "refused": said, "because": case.refused})
            continue
        found = measure(folder, case)
        agreements.append(
            {
                **place,
                "l0": found.l0,
                "max_acts_difference": found.acts,
                "max_recon_difference": found.recon,
                "max_recon_difference_unit_decoder": found.unit_recon,
                "other_active_features": found.active,
            }
        )
    _add_targets(report, agreements, refusals)


def _add_targets(report: Report, agreements: list[Row], refusals: list[Row]) -> None:
    if agreements:
        report.add_rows("imported, against the peer's own code", agreements)
        for key in ("max_acts_difference", "max_recon_difference", "max_recon_difference_unit_decoder"):
            report.at_most(key, max(float(row[key]) for row in agreements), BOUND)
        other = sum(int(row["other_active_features"]) for row in agreements)
        report.at_most("other_active_features", other, 0)
    if refusals:
        report.add_rows("refused", refusals)
        report.at_least("refused_share", sum(row["refused"] == "yes" for row in refusals) / len(refusals), 1)


def _add_saelens(report: Report, cases: Path, pythons: Sequence[str]) -> None:
    if not read_with_saelens(cases, pythons):
        return
    rows: list[Row] = []
    for folder, case in read_cases(cases):
        if not case.refused:
            acts, recon = saelens_difference(folder)
            rows.append(
                {"layout": case.layout, "kind": case.kind, "acts_difference": acts, "recon_difference": recon}
            )
    report.add_rows("imported folders, loaded by SAELens and by steerd", rows)
    for key in ("acts_difference", "recon_difference"):
        report.at_most(f"saelens_{key}", max(float(row[key]) for row in rows), BOUND)


def saelens_difference(folder: Path) -> tuple[float, float]:
    """The largest differences, in activations and reconstructions, between SAELens and steerd."""
    acts, recon = 0.0, 0.0
    for name in ("imported", "imported_kept"):
        theirs, ours = read_expected(folder / f"{name}.safetensors"), load_sae(folder / name).sae
        found = ours.encode(theirs.x)
        acts = max(acts, _largest(found, theirs.acts))
        recon = max(recon, _largest(ours.decode(found), theirs.recon))
    return acts, recon


def _imported(folder: Path, case: Case, *, keep_decoder_norms: bool) -> Expected:
    expected = read_expected(folder / EXPECTED) if not case.refused else None
    output = folder / ("imported_kept" if keep_decoder_norms else "imported")
    format_name = case.options.get("format", "auto")
    options = {key: value for key, value in case.options.items() if key != "format"}
    import_sae(
        folder / case.path,
        output,
        ImportOptions(**options),
        format_name=format_name,
        keep_decoder_norms=keep_decoder_norms,
    )
    assert expected is not None, "a case to be refused was imported"
    sae = load_sae(output).sae
    acts = sae.encode(expected.x)
    return Expected(expected.x, acts, sae.decode(acts))


def _largest(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max())


def _has(python: str, module: str) -> bool:
    return (
        _call(python, "-c", f"import importlib.util as u; exit(not u.find_spec({module!r}))").returncode == 0
    )


def _run(python: str, *arguments: str) -> None:
    done = _call(python, *arguments)
    if done.returncode != 0:
        raise SystemExit(f"{python} {' '.join(arguments)} failed:\n{done.stderr}")


def _call(python: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, *arguments], cwd=_ROOT, env=dict(os.environ), capture_output=True, text=True, check=False
    )


def _options() -> argparse.Namespace:
    parser = parser_of(__doc__ or "")
    parser.add_argument(
        "--peer-python",
        nargs="+",
        default=peer_pythons(),
        metavar="PATH",
        help=f"the Pythons of environments with one or more of the peers (default: those in {PEER_PYTHONS})",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
