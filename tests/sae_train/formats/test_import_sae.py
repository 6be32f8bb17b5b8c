"""Files of every layout, imported, against the layout's own forward."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sae_train.formats.import_sae import FORMATS, LAYOUTS, choose_layout, import_sae
from sae_train.formats.layout import ImportOptions
from sae_train.formats.source import Source
from steerd.errors import ConfigError, SaeFileError
from steerd.sae.activation_function import TopK
from steerd.sae.sae_file import load_sae
from tests.sae_train.formats import layout_files, saelens_files
from tests.sae_train.formats.layout_files import WRITERS
from tests.sae_train.formats.random_weights import (
    D_MODEL,
    D_SAE,
    Weights,
    Written,
    forward,
    rows,
    save_safetensors,
)

TOLERANCE = 1e-5  # of activations and reconstructions of size one, in float32

LAYOUT_OF = {
    "saelens": "saelens",
    "gemma_scope_2": "gemma_scope_2",
    "gemma_scope": "gemma_scope",
    "sparsify": "sparsify",
    "dl_": "dictionary_learning",
    "openai": "openai",
    "llama_scope": "llama_scope",
    "qwen_scope": "qwen_scope",
    "goodfire": "goodfire",
}

every_layout = pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found.double(), expected, rtol=TOLERANCE, atol=TOLERANCE)


@every_layout
def test_an_import_gives_the_layouts_activations(tmp_path: Path, write: Callable[[Path], Written]):
    written, x = write(tmp_path / "source"), rows()

    import_sae(written.path, tmp_path / "out", ImportOptions(**written.told), keep_decoder_norms=True)

    sae, (acts, recon) = load_sae(tmp_path / "out").sae, written.forward(x)
    assert_close(sae.encode(x.float()), acts)
    assert_close(sae.decode(sae.encode(x.float())), recon)
    assert 1 < (acts > 0).double().sum(dim=1).mean() < D_SAE - 1


@every_layout
def test_decoder_rows_have_norm_1_unless_a_topk_needs_them(tmp_path: Path, write: Callable[[Path], Written]):
    written, x = write(tmp_path / "source"), rows()

    written_as = import_sae(written.path, tmp_path / "out", ImportOptions(**written.told))

    sae, (acts, recon) = load_sae(tmp_path / "out").sae, written.forward(x)
    found, norms = sae.encode(x.float()), sae.W_dec.norm(dim=1)
    assert_close(sae.decode(found), recon)
    assert torch.equal(found > 0, acts > 0)
    if isinstance(sae.activation, TopK) and "kept" in written_as.provenance["activation_units"]:
        assert norms.max() > 1.5
    else:
        torch.testing.assert_close(norms, torch.ones_like(norms))


@every_layout
def test_the_layout_is_told_by_the_files(tmp_path: Path, write: Callable[[Path], Written]):
    layout = choose_layout(Source(write(tmp_path / "source").path))

    expected = next(name for start, name in LAYOUT_OF.items() if write.__name__.startswith(start))
    assert layout.name == expected


def test_every_layout_is_covered_here():
    assert {layout.name for layout in LAYOUTS} == set(LAYOUT_OF.values())
    assert ("auto", *(layout.name for layout in LAYOUTS)) == FORMATS


def test_where_it_came_from_is_recorded(tmp_path: Path):
    written = saelens_files.saelens_batch_topk_checkpoint(tmp_path / "source")

    import_sae(written.path, tmp_path / "out", ImportOptions())

    record = json.loads((tmp_path / "out" / "steerd.json").read_text())
    imported = record["imported"]
    assert record["host"] == {"name": "tiny/host"}
    assert record["hook_point"] == "blocks.1.hook_resid_post"
    assert imported["layout"] == "saelens"
    assert imported["kind"] == "batchtopk"
    assert imported["source"] == "source"
    assert imported["about"]["context_size"] == 128
    assert imported["sha256"] == {
        name: hashlib.sha256((written.path / name).read_bytes()).hexdigest()
        for name in ("activation_scaler.json", "cfg.json", "sae_weights.safetensors")
    }
    assert [step.split(",")[0] for step in imported["folded"]] == [
        "topk_threshold given to every feature",
        "b_dec",
        "activation scale 0.37 folded into the weights",
        "decoder norms",
    ]


def test_an_imported_folder_is_not_imported_again(tmp_path: Path):
    written = saelens_files.saelens_standard(tmp_path / "source")
    import_sae(written.path, tmp_path / "out", ImportOptions())

    with pytest.raises(SaeFileError, match=r"holds steerd\.json: it is an SAE folder that steerd loads"):
        import_sae(tmp_path / "out", tmp_path / "again", ImportOptions())


def test_the_source_is_not_written_over(tmp_path: Path):
    path = saelens_files.saelens_standard(tmp_path / "source").path
    before = (path / "cfg.json").read_bytes()

    with pytest.raises(SaeFileError, match="source: must be another folder than the one that is imported"):
        import_sae(path / "cfg.json", tmp_path / "x" / ".." / "source", ImportOptions())

    assert (path / "cfg.json").read_bytes() == before


def test_a_refused_import_leaves_no_folder(tmp_path: Path):
    written = layout_files.sparsify(tmp_path / "source", transcode=True)

    with pytest.raises(SaeFileError):
        import_sae(written.path, tmp_path / "out", ImportOptions())

    assert not (tmp_path / "out").exists()


def test_an_option_without_a_use_is_refused(tmp_path: Path):
    written = layout_files.sparsify(tmp_path / "source")

    with pytest.raises(ConfigError, match="--k: has no meaning for sparsify files"):
        import_sae(written.path, tmp_path / "out", ImportOptions(k=3))


def test_files_of_two_layouts_are_told_apart_by_the_user(tmp_path: Path):
    written = saelens_files.saelens_standard(tmp_path / "layers.1")
    save_safetensors(written.path / "sae.safetensors", {"x": torch.zeros(1)})

    with pytest.raises(SaeFileError, match=r"several layouts \(saelens, sparsify\); give --format"):
        import_sae(written.path, tmp_path / "out", ImportOptions())
    import_sae(written.path, tmp_path / "out", ImportOptions(), format_name="saelens")

    assert load_sae(tmp_path / "out").metadata.architecture == "standard"


def test_files_of_no_layout(tmp_path: Path):
    (tmp_path / "model.safetensors").touch()

    with pytest.raises(SaeFileError, match=r"is in no layout that is read here: saelens \(cfg\.json and"):
        import_sae(tmp_path, tmp_path / "out", ImportOptions())
    with pytest.raises(SaeFileError, match=r"is not in the layout sparsify, which has cfg\.json and sae\."):
        import_sae(tmp_path, tmp_path / "out", ImportOptions(), format_name="sparsify")


def test_square_weights_are_not_oriented_by_guess(tmp_path: Path):
    w, x = Weights(d_sae=D_MODEL), rows()
    state = w.linear() | {"bias": w.b_dec}
    place = layout_files.dictionary_learning(tmp_path / "source", "AutoEncoder", state, dict_size=D_MODEL)

    with pytest.raises(SaeFileError, match="d_model and d_sae are both 12, so a transposed"):
        import_sae(place, tmp_path / "out", ImportOptions())
    import_sae(place, tmp_path / "out", ImportOptions(), format_name="dictionary_learning")

    sae = load_sae(tmp_path / "out").sae
    assert_close(sae.decode(sae.encode(x.float())), forward(w, torch.relu, subtract=True)(x)[1])
