"""steerd/pb is what protos/ say."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from steerd.pb.v1 import catalog_service_pb2, feature_pb2, generation_service_pb2

ROOT = Path(__file__).parent.parent.parent
GENERATED = ROOT / "steerd" / "pb" / "v1"


def test_regenerating_changes_nothing(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools")

    subprocess.run([sys.executable, ROOT / "protos" / "generate.py", tmp_path], check=True)

    made = {path.name: path.read_bytes() for path in (tmp_path / "steerd" / "pb" / "v1").iterdir()}
    committed = {path.name: path.read_bytes() for path in GENERATED.glob("*_pb2*.py*")}
    assert made.keys() == committed.keys()
    assert [name for name in made if made[name] != committed[name]] == [], "run `make proto`"


def test_the_contract_passes_its_linter() -> None:
    buf = shutil.which("buf", path=Path(sys.executable).parent)
    if buf is None:
        pytest.skip("buf is not installed")

    lint = subprocess.run([buf, "lint"], cwd=ROOT / "protos", capture_output=True, text=True, check=False)

    assert (lint.returncode, lint.stdout) == (0, "")


@pytest.mark.parametrize("file", [generation_service_pb2, catalog_service_pb2, feature_pb2])
def test_the_package_is_version_one(file: object) -> None:
    assert file.DESCRIPTOR.package == "steerd.v1"  # type: ignore[attr-defined]
