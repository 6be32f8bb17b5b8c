"""`sae-train import`, as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sae_train.__main__ import main
from steerd.sae.sae_file import load_sae
from tests.sae_train.formats.layout_files import gemma_scope_lower_case, sparsify
from tests.sae_train.formats.saelens_files import saelens_scaled


def test_import_says_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = saelens_scaled(tmp_path / "source").path

    status = main(["import", str(path), "--output", str(tmp_path / "out"), "--activation-scale", "0.2"])

    said = json.loads(capsys.readouterr().out)
    assert status == 0
    assert said["layout"] == "saelens"
    assert said["architecture"] == load_sae(tmp_path / "out").metadata.architecture == "standard"
    assert said["hook_point"] == "blocks.1.hook_resid_post"
    assert "activation scale 0.2 folded into the weights" in said["folded"]
    assert said["activation_units"] == "the layout's own times its decoder norms"


def test_every_option_reaches_the_importer(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = gemma_scope_lower_case(tmp_path / "source").path
    told = ["--hook-point", "blocks.1.hook_mlp_out", "--model", "a/model", "--keep-decoder-norms"]

    assert (
        main(["import", str(path), "--output", str(tmp_path / "out"), "--format", "gemma_scope", *told]) == 0
    )

    said = json.loads(capsys.readouterr().out)
    assert said["model"] == "a/model"
    assert said["hook_point"] == "blocks.1.hook_mlp_out"
    assert said["activation_units"] == "as the layout's own code gives them; decoder norms kept"


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        (["--k", "3"], "--k: has no meaning for sparsify files"),
        (["--format", "openai"], "is not in the layout openai"),
    ],
)
def test_a_refusal_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], told: list[str], reason: str
):
    path = sparsify(tmp_path / "source").path

    assert main(["import", str(path), "--output", str(tmp_path / "out"), *told]) == 1

    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("sae-train: ")
    assert reason in said.err
    assert said.err.count("\n") == 1
