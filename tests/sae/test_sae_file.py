from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from steerd.errors import SaeFileError
from steerd.sae.activation_function import JumpReLU, TopK
from steerd.sae.autoencoder import SparseAutoencoder
from steerd.sae.config_file import ARCHITECTURES, Architecture
from steerd.sae.feature_label import FeatureLabel, LabelScore
from steerd.sae.feature_note import FeatureExample
from steerd.sae.sae_file import SaeBundle, load_sae, save_notes, save_sae
from tests.tiny_saes import bundle_of, random_sae


def tensors_of(sae: SparseAutoencoder) -> list[Tensor]:
    threshold = [sae.activation.threshold] if isinstance(sae.activation, JumpReLU) else []
    return [sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec, *threshold]


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "cfg.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_float32_comes_back_bit_for_bit(tmp_path: Path, architecture: Architecture):
    sae = random_sae(architecture=architecture)

    save_sae(tmp_path / "sae", bundle_of(sae))
    loaded = load_sae(tmp_path / "sae").sae

    assert all(map(torch.equal, tensors_of(loaded), tensors_of(sae)))
    assert {tensor.dtype for tensor in tensors_of(loaded)} == {torch.float32}
    assert type(loaded.activation) is type(sae.activation)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_bfloat16_rounds_the_two_matrices_alone(tmp_path: Path, architecture: Architecture):
    sae = random_sae(architecture=architecture)

    written = save_sae(tmp_path / "sae", bundle_of(sae), weights_dtype=torch.bfloat16)
    bundle = load_sae(tmp_path / "sae")

    rounded = replace(sae, W_enc=sae.W_enc.bfloat16().float(), W_dec=sae.W_dec.bfloat16().float())
    assert all(map(torch.equal, tensors_of(bundle.sae), tensors_of(rounded)))
    assert {tensor.dtype for tensor in tensors_of(bundle.sae)} == {torch.float32}
    assert bundle.metadata.weights_dtype == written.weights_dtype == "bfloat16"
    stored = load_file(tmp_path / "sae" / "sae_weights.safetensors")
    in_bfloat16 = {name for name, tensor in stored.items() if tensor.dtype == torch.bfloat16}
    assert in_bfloat16 == {"W_enc", "W_dec"}


def test_topk_keeps_its_k(tmp_path: Path):
    save_sae(tmp_path / "sae", bundle_of(random_sae(architecture="topk")))

    assert load_sae(tmp_path / "sae").sae.activation == TopK(8)


def test_metadata_statistics_and_notes_come_back(tmp_path: Path):
    bundle = bundle_of(random_sae(), name="sae")

    written = save_sae(tmp_path / "sae", bundle)
    loaded = load_sae(tmp_path / "sae")

    assert loaded.metadata == written
    assert loaded.metadata == replace(bundle.metadata, weights_sha256=written.weights_sha256)
    assert loaded.notes == bundle.notes
    assert loaded.statistics is not None
    assert bundle.statistics is not None
    for name in ("max_activation", "density", "mean_activation", "dead"):
        assert torch.equal(getattr(loaded.statistics, name), getattr(bundle.statistics, name)), name


def test_scores_sampled_contexts_and_written_labels_come_back(tmp_path: Path):
    bundle = bundle_of(random_sae(d_sae=2))
    assert bundle.notes is not None
    first = replace(
        bundle.notes[0],
        sampled=(FeatureExample((" a", "b"), (0.0, 0.5), percentile=0.0),),
        scores=(LabelScore("tokens", 0.75, 12, strong=0.0), LabelScore("detection", 0.5, 50, "a judge")),
        written=FeatureLabel("words", (LabelScore("rubric", 5.0, 5, "a judge"),), by="a model"),
    )
    second = replace(bundle.notes[1], written=FeatureLabel("untested", by="a model"))
    notes = (first, second)

    save_sae(tmp_path / "sae", replace(bundle, notes=notes))

    assert load_sae(tmp_path / "sae").notes == notes


def test_notes_without_what_came_later_are_written_as_they_were(tmp_path: Path):
    bundle = bundle_of(random_sae(d_sae=2))
    assert bundle.notes is not None

    save_sae(tmp_path / "sae", bundle)

    line = (tmp_path / "sae" / "features.jsonl").read_text().split("\n")[1]
    assert list(json.loads(line)) == ["feature", "label", "top_tokens", "promoted_tokens", "examples"]
    assert list(json.loads(line)["examples"][0]) == ["tokens", "values"]


def test_activations_of_zero_are_written_short(tmp_path: Path):
    bundle = bundle_of(random_sae(d_sae=1))
    assert bundle.notes is not None
    note = replace(bundle.notes[0], examples=(FeatureExample(("a", "b", "c"), (0.0, 1.5, 0.0)),))

    save_sae(tmp_path / "sae", replace(bundle, notes=(note,)))

    assert '"values":[0,1.5,0]' in (tmp_path / "sae" / "features.jsonl").read_text()
    assert load_sae(tmp_path / "sae").notes == (note,)


def test_notes_alone_are_replaced(tmp_path: Path):
    folder = tmp_path / "sae"
    bundle = bundle_of(random_sae(d_sae=4))
    save_sae(folder, bundle)
    before = snapshot(folder)
    assert bundle.notes is not None
    notes = tuple(replace(note, label=f"new {note.feature}") for note in bundle.notes)

    save_notes(folder, notes)

    after = snapshot(folder)
    assert load_sae(folder).notes == notes
    assert {name for name in before if after[name] != before[name]} == {"features.jsonl"}
    assert after.keys() == before.keys()
    with pytest.raises(SaeFileError, match="expected 4 lines"):
        save_notes(folder, notes[:3])
    assert snapshot(folder) == after


def test_the_hash_is_that_of_the_weights_file(tmp_path: Path):
    save_sae(tmp_path / "sae", bundle_of(random_sae()))

    content = (tmp_path / "sae" / "sae_weights.safetensors").read_bytes()
    assert load_sae(tmp_path / "sae").metadata.weights_sha256 == hashlib.sha256(content).hexdigest()


def test_an_sae_is_called_what_its_folder_is_called_unless_named(tmp_path: Path):
    save_sae(tmp_path / "middle", bundle_of(random_sae()))

    assert load_sae(tmp_path / "middle").metadata.name == "middle"
    assert load_sae(tmp_path / "middle", name="topics").metadata.name == "topics"


def test_what_steerd_adds_is_optional(tmp_path: Path):
    save_sae(tmp_path / "sae", bundle_of(random_sae()))
    for name in ("steerd.json", "features.safetensors", "features.jsonl"):
        (tmp_path / "sae" / name).unlink()

    bundle = load_sae(tmp_path / "sae")

    assert bundle.metadata.provenance == {}
    assert bundle.statistics is None
    assert bundle.notes is None


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_b_dec_on_the_input_is_folded(tmp_path: Path, architecture: Architecture):
    sae = random_sae(architecture=architecture)
    save_sae(tmp_path / "sae", bundle_of(sae))
    edit_config(tmp_path / "sae", apply_b_dec_to_input=True)
    x = torch.randn(9, 16, generator=torch.Generator().manual_seed(1))

    loaded = load_sae(tmp_path / "sae").sae

    torch.testing.assert_close(loaded.encode(x), sae.encode(x - sae.b_dec), rtol=0, atol=1e-6)


def test_a_topk_that_ranks_by_decoder_norm_is_folded(tmp_path: Path):
    sae = random_sae(architecture="topk")
    sae = replace(sae, W_dec=sae.W_dec * torch.linspace(0.2, 5.0, 64).unsqueeze(1))
    save_sae(tmp_path / "sae", bundle_of(sae))
    edit_config(tmp_path / "sae", rescale_acts_by_decoder_norm=True)
    x = torch.randn(9, 16, generator=torch.Generator().manual_seed(1))

    loaded = load_sae(tmp_path / "sae").sae

    norms = sae.W_dec.norm(dim=1)
    ranked_acts = TopK(8)((x @ sae.W_enc + sae.b_enc) * norms)
    torch.testing.assert_close(loaded.encode(x), ranked_acts, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        loaded.decode(ranked_acts), sae.decode(ranked_acts / norms), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_any_float_width_are_read_into_float32(tmp_path: Path, dtype: torch.dtype):
    save_sae(tmp_path / "sae", bundle_of(random_sae()))
    path = tmp_path / "sae" / "sae_weights.safetensors"
    stored = {name: tensor.to(dtype) for name, tensor in load_file(path).items()}
    save_file(stored, path)

    loaded = load_sae(tmp_path / "sae")

    assert torch.equal(loaded.sae.W_enc, stored["W_enc"].float())
    assert loaded.sae.activation.threshold.dtype == torch.float32
    assert loaded.metadata.weights_dtype == str(dtype).removeprefix("torch.")


def test_saving_again_replaces_everything(tmp_path: Path):
    save_sae(tmp_path / "sae", bundle_of(random_sae(seed=1)))
    bare = replace(bundle_of(random_sae(seed=2, architecture="topk")), statistics=None, notes=None)

    save_sae(tmp_path / "sae", bare)
    loaded = load_sae(tmp_path / "sae")

    assert torch.equal(loaded.sae.W_enc, bare.sae.W_enc)
    assert loaded.notes is None
    assert loaded.statistics is None
    assert [path.name for path in tmp_path.iterdir()] == ["sae"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("W_enc", float("nan")), ("b_enc", float("inf")), ("W_dec", -float("inf")), ("threshold", float("nan"))],
)
def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path, name: str, value: float):
    save_sae(tmp_path / "sae", bundle_of(random_sae()))
    before = snapshot(tmp_path / "sae")
    sae = random_sae(seed=1)
    tensor = sae.activation.threshold if name == "threshold" else getattr(sae, name)
    tensor.view(-1)[7] = value

    with pytest.raises(
        SaeFileError, match=rf"sae_weights.safetensors: tensor {name}: expected finite .* at \("
    ):
        save_sae(tmp_path / "sae", bundle_of(sae))

    assert snapshot(tmp_path / "sae") == before
    assert [path.name for path in tmp_path.iterdir()] == ["sae"]


def test_a_weight_too_large_for_bfloat16_is_not_saved(tmp_path: Path):
    sae = random_sae()
    sae.W_enc[2, 3] = 3.4e38

    with pytest.raises(SaeFileError, match=r"W_enc.*inf at \(2, 3\)"):
        save_sae(tmp_path / "sae", bundle_of(sae), weights_dtype=torch.bfloat16)

    assert list(tmp_path.iterdir()) == []


def spoilt(bundle: SaeBundle, case: str) -> SaeBundle:
    assert bundle.statistics is not None
    assert bundle.notes is not None
    statistics, notes, metadata = bundle.statistics, bundle.notes, bundle.metadata
    match case:
        case "provenance":
            return replace(bundle, metadata=replace(metadata, provenance={"loss": float("nan")}))
        case "provenance type":
            return replace(bundle, metadata=replace(metadata, provenance={"path": Path("/")}))
        case "statistics":
            return replace(bundle, statistics=replace(statistics, density=torch.full((64,), torch.nan)))
        case "statistics shape":
            return replace(bundle, statistics=replace(statistics, dead=torch.zeros(63, dtype=torch.bool)))
        case "notes":
            return replace(bundle, notes=notes[:-1])
        case "notes order":
            return replace(bundle, notes=notes[::-1])
    raise AssertionError(case)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("provenance", r"steerd\.json: cannot be written"),
        ("provenance type", r"steerd\.json: cannot be written.*Path"),
        ("statistics", r"features\.safetensors: tensor density: expected finite values, found nan at \(0,\)"),
        ("statistics shape", r"features\.safetensors: tensor dead: expected shape \(64,\), found \(63,\)"),
        ("notes", r"features\.jsonl: expected 64 lines, one a feature, found 63"),
        ("notes order", r"features\.jsonl line 1: expected feature 0, found 63"),
    ],
)
def test_what_could_not_be_loaded_is_not_saved(tmp_path: Path, case: str, message: str):
    with pytest.raises(SaeFileError, match=message):
        save_sae(tmp_path / "sae", spoilt(bundle_of(random_sae()), case))

    assert list(tmp_path.iterdir()) == []


def seeded_bundle(seed: int) -> SaeBundle:
    bundle = bundle_of(random_sae(seed=seed))
    return replace(bundle, metadata=replace(bundle.metadata, provenance={"seed": seed}))


def test_a_reader_never_sees_half_of_one_sae_and_half_of_another(tmp_path: Path):
    bundles = [seeded_bundle(0), seeded_bundle(1)]
    save_sae(tmp_path / "sae", bundles[0])
    stop = threading.Event()

    def keep_replacing() -> None:
        for bundle in itertools.cycle(bundles):
            if stop.is_set():
                return
            save_sae(tmp_path / "sae", bundle)

    writer = threading.Thread(target=keep_replacing)
    writer.start()
    try:
        for _ in range(50):
            with contextlib.suppress(SaeFileError):
                loaded = load_sae(tmp_path / "sae")
                assert torch.equal(loaded.sae.W_enc, bundles[loaded.metadata.provenance["seed"]].sae.W_enc)
    finally:
        stop.set()
        writer.join(timeout=60)
    assert not writer.is_alive()
    load_sae(tmp_path / "sae")


def test_the_oldest_file_of_this_format_still_loads():
    """Written once by hand-checked code; a change that breaks it breaks every SAE in the field."""
    bundle = load_sae(Path(__file__).parent / "golden" / "sae_v1")

    x = torch.tensor([[1.0, 2.0]])
    assert bundle.sae.encode(x).tolist() == [[1.0, 0.0, 2.5]]
    assert bundle.sae.decode(bundle.sae.encode(x)).tolist() == [[4.5, 3.5]]
    assert bundle.metadata.hook_point == "blocks.1.hook_resid_post"
    assert bundle.metadata.weights_dtype == "bfloat16"
    assert bundle.metadata.provenance["format_version"] == 1
    assert bundle.statistics is not None
    assert bundle.statistics.dead.tolist() == [False, True, False]
    assert bundle.notes is not None
    assert [note.label for note in bundle.notes] == ["first", "second", "third"]
