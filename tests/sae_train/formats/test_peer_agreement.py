"""Files that other tools' own code wrote, imported, against what that code computes.

Runs where STEERD_PEER_PYTHONS names the Pythons of environments that have the tools, separated as paths are;
see `benchmarks.format_agreement`, whose cases these are.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.format_agreement import (
    BOUND,
    PEER_PYTHONS,
    measure,
    peer_pythons,
    read_with_saelens,
    refusal,
    saelens_difference,
    write_cases,
)
from benchmarks.format_peers.case_files import read_cases

pytestmark = pytest.mark.skipif(not peer_pythons(), reason=f"{PEER_PYTHONS} names no environment of a peer")


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cases")
    write_cases(folder, peer_pythons())
    return folder


def test_imports_compute_what_the_peers_compute(cases: Path):
    for folder, case in read_cases(cases):
        if not case.refused:
            found = measure(folder, case)
            assert max(found.acts, found.recon, found.unit_recon) <= BOUND, f"{case.peer} {case.name}"
            assert found.active == 0, f"{case.peer} {case.name}"


def test_what_has_no_plain_form_is_refused(cases: Path):
    for folder, case in read_cases(cases):
        if case.refused:
            assert case.refused in refusal(folder, case), f"{case.peer} {case.name}"


def test_saelens_loads_the_imports(cases: Path):
    taken = [(folder, case) for folder, case in read_cases(cases) if not case.refused]
    for folder, case in taken:
        measure(folder, case)
    if not read_with_saelens(cases, peer_pythons()):
        pytest.skip("no environment has SAELens")

    for folder, case in taken:
        assert max(saelens_difference(folder)) <= BOUND, f"{case.peer} {case.name}"
