"""What has no plain form, or is not certain, is refused with the file and the reason."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sae_train.formats.import_sae import import_sae
from sae_train.formats.layout import ImportOptions
from steerd.errors import SaeFileError, SteerdError
from steerd.sae.sae_file import load_sae
from tests.sae_train.formats import layout_files, saelens_files
from tests.sae_train.formats.layout_files import dictionary_learning, openai_state
from tests.sae_train.formats.random_weights import (
    D_MODEL,
    D_SAE,
    Weights,
    save_json,
    save_pt,
    save_safetensors,
)
from tests.sae_train.formats.saelens_files import SAELENS_CFG, SAELENS_OLD_CFG, saelens

Make = Callable[[Path], Path]


def refused(path: Path, options: ImportOptions | None = None) -> str:
    """The reason; fails where the files are taken."""
    with pytest.raises(SteerdError) as raised:
        import_sae(path, path.parent / "out", options or ImportOptions())
    return str(raised.value)


def saelens_with(tensors: dict[str, torch.Tensor] | None = None, **cfg: Any) -> Make:
    return lambda folder: saelens(folder, Weights().ours() | (tensors or {}), SAELENS_CFG | cfg)


def saelens_hooked(**metadata: Any) -> Make:
    return saelens_with(metadata=SAELENS_CFG["metadata"] | metadata)


def old_saelens_with(tensors: dict[str, torch.Tensor] | None = None, **cfg: Any) -> Make:
    return lambda folder: saelens(folder, Weights().ours() | (tensors or {}), SAELENS_OLD_CFG | cfg)


def sparsify_with(**config: Any) -> Make:
    return lambda folder: layout_files.sparsify(folder, **config).path


def gemma_2_with(tensors: dict[str, torch.Tensor] | None = None, **config: Any) -> Make:
    def make(folder: Path) -> Path:
        path = layout_files.gemma_scope_2(folder).path
        record = json.loads((path / "config.json").read_text())
        save_json(path / "config.json", record | config)
        stored = load_file(path / "params.safetensors")
        save_safetensors(path / "params.safetensors", stored | (tensors or {}))
        return path

    return make


def gemma_at(place: str, **tensors: np.ndarray) -> Make:
    def make(folder: Path) -> Path:
        path = folder / place
        path.mkdir(parents=True)
        arrays = {name: tensor.numpy() for name, tensor in Weights().ours("threshold").items()}
        np.savez(path / "params.npz", **(arrays | tensors))
        return path

    return make


def dl_with(dict_class: str, state: dict[str, Any], config: dict[str, Any] | None = None) -> Make:
    def make(folder: Path) -> Path:
        path = dictionary_learning(folder, dict_class, state)
        if config is not None:
            record = json.loads((path / "config.json").read_text())
            record["trainer"] |= config.get("trainer", {})
            save_json(path / "config.json", record | {"buffer": config.get("buffer", {})})
        return path

    return make


def llama_with(**config: Any) -> Make:
    def make(folder: Path) -> Path:
        path = layout_files.llama_scope(folder).path
        save_json(path / "hyperparams.json", layout_files.LLAMA_SCOPE_CFG | config)
        return path

    return make


def openai_with(**state: Any) -> Make:
    def make(folder: Path) -> Path:
        save_pt(folder / "6.pt", openai_state(Weights()) | state)
        return folder / "6.pt"

    return make


def batch_topk_state(**state: Any) -> dict[str, Any]:
    w = Weights()
    return w.linear() | {"b_dec": w.b_dec, "k": torch.tensor(5, dtype=torch.int)} | state


AUTO_ENCODER = Weights().linear() | {"bias": Weights().b_dec}
SQUARE = torch.zeros(D_MODEL, D_MODEL)

SAELENS: list[tuple[Make, str]] = [
    (saelens_with(normalize_activations="layer_norm"), "each token is layer-normalised"),
    (saelens_with(normalize_activations="constant_norm_rescale"), "each token is brought to one norm"),
    (saelens_with(normalize_activations="covariance_whitening"), "fold it in SAELens first"),
    (saelens_with(normalize_activations="expected_average_only_in"), "give --activation-scale"),
    (saelens_with(reshape_activations="hook_z"), "attention heads before their output projection"),
    (saelens_hooked(hook_name="blocks.1.attn.hook_z"), "attention heads before their output projection"),
    (saelens_hooked(hook_name="blocks.1.hook_mlp_in"), "reads the MLP's input (blocks.1.hook_mlp_in)"),
    (saelens_hooked(hook_name="blocks.1.hook_resid_mid"), "steerd has no hook point"),
    (saelens_hooked(hook_name="hook_embed"), "reads token embeddings"),
    (saelens_hooked(hook_name=None), "no file says where it reads; give --hook-point"),
    (
        saelens_hooked(hook_name="some.module"),
        "'some.module' is not certainly one of ours; give --hook-point",
    ),
    (saelens_hooked(model_name=None), "no file says which model it was trained on; give --model"),
    (saelens_hooked(hook_head_index=3), "hook_head_index must be null, found 3"),
    (saelens_hooked(sae_lens_version="six"), "sae_lens_version must be a version, found 'six'"),
    (saelens_with(architecture="transcoder"), "found 'transcoder': it predicts another activation"),
    (saelens_with(architecture="skip_transcoder"), "it predicts another activation than it reads"),
    (saelens_with(architecture="temporal"), "a feature's activation depends on other tokens"),
    (saelens_with(architecture="abstopk"), "active with negative values"),
    (saelens_with(architecture="matching_pursuit"), "chosen one after another"),
    (saelens_with(architecture="novel"), "architecture must be one of ('standard', 'gated', 'jumprelu'"),
    (saelens_with(architecture="topk", k=D_SAE + 1), f"k must be between 1 and d_sae = {D_SAE}, found 41"),
    (saelens_with(architecture="topk", k=0), "k must be at least 1, found 0"),
    (saelens_with(architecture="jumprelu"), "tensor threshold is missing"),
    (saelens_with(d_in=13), "tensor W_enc: expected shape (13, 40), found (12, 40)"),
    (saelens_with(d_sae=2**24 + 1), "d_sae must be between 1 and 16777216, found 16777217"),
    (saelens_with({"W_skip": SQUARE}), "tensor W_skip is unexpected; expected only"),
    (saelens_with({"scaling_factor": torch.ones(D_SAE)}), "tensor scaling_factor is unexpected"),
    (
        saelens_with({"topk_threshold": torch.tensor(0.0)}, architecture="batchtopk", k=5.0),
        "tensor topk_threshold: must be above 0, found 0",
    ),
    (old_saelens_with(activation_fn_str="tanh-relu"), "activation_fn must be 'relu' or 'topk'"),
    (old_saelens_with(hook_point="blocks.1.attn.hook_z"), "reshape_activations must be 'none'"),
    (old_saelens_with(normalize_activations=True), "give --activation-scale"),
    (
        old_saelens_with({"scaling_factor": torch.full((D_SAE,), 2.0)}),
        "tensor scaling_factor: expected ones, as finetuning_scaling_factor is false, found 2 to 2",
    ),
]
OTHERS: list[tuple[Make, str]] = [
    (sparsify_with(activation="groupmax"), "activation must be 'topk', found 'groupmax'"),
    (sparsify_with(transcode=True), "transcode must be false, found True: it predicts another activation"),
    (sparsify_with(skip_connection=True), "skip_connection must be false"),
    (
        sparsify_with(signed=True),
        "signed must be false, found True: its features can be active with negative",
    ),
    (sparsify_with(num_latents=D_SAE + 1), "expected shape (41, 12), found (40, 12)"),
    (gemma_2_with(affine_connection=True), "has an affine skip connection"),
    (gemma_2_with({"affine_skip_connection": SQUARE}), "has an affine skip connection"),
    (
        gemma_2_with(hf_hook_point_out="model.layers.1.mlp.output"),
        "is a transcoder: reads model.layers.1.out",
    ),
    (gemma_2_with(architecture="relu"), "architecture must be 'jump_relu', found 'relu'"),
    (
        gemma_2_with(hf_hook_point_in="model.layers.1.self_attn.o_proj.input", hf_hook_point_out=None),
        "attention heads before their output projection",
    ),
    (
        gemma_2_with({"w_dec": torch.zeros(D_SAE, 3, D_MODEL)}),
        "w_dec: expected shape (40, 12), found (40, 3, 12)",
    ),
    (gemma_at("gemma-scope-2b-pt-att/layer_1"), "attention heads before their output projection"),
    (gemma_at("gemma-scope-2b-pt-transcoders/layer_1"), "is no autoencoder of a hook point of ours"),
    (gemma_at("gemma-scope-2b-pt-res/embedding"), "is no autoencoder of a hook point of ours"),
    (gemma_at("gemma-scope-2b-pt-res/layer_1/width_16k"), "is named width_16k but W_enc has d_sae = 40"),
    (gemma_at("layer_1"), "no file says which model it was trained on"),
    (
        gemma_at("gemma-scope-2b-pt-res/layer_1", scaling_factor=np.full(D_SAE, 2.0)),
        "tensor scaling_factor: expected ones, found 2 to 2",
    ),
    (
        gemma_at("gemma-scope-2b-pt-res/layer_1", w_enc=np.zeros((D_MODEL, D_SAE))),
        "tensor W_enc is unexpected",
    ),
    (dl_with("IdentityDict", {}), "dict_class must be one of ['AutoEncoder', 'AutoEncoderNew'"),
    (dl_with("AutoEncoderNew", AUTO_ENCODER), "tensor decoder.bias is missing"),
    (
        dl_with("BatchTopKSAE", batch_topk_state(threshold=torch.tensor(-1.0))),
        "tensor threshold: must be at least 0, found -1: training never set it",
    ),
    (dl_with("BatchTopKSAE", batch_topk_state()), "tensor threshold is missing: without it"),
    (
        dl_with("AutoEncoderTopK", batch_topk_state(), {"trainer": {"k": 6}}),
        "k is 6, but ae.pt has 5",
    ),
    (
        dl_with("AutoEncoderTopK", batch_topk_state(k=torch.tensor(5.0))),
        "tensor k: expected one integer, found F32 ()",
    ),
    (
        dl_with("AutoEncoder", AUTO_ENCODER, {"trainer": {"dict_size": 41}}),
        "dict_size is 41, but ae.pt has 40",
    ),
    (
        dl_with("AutoEncoder", AUTO_ENCODER, {"buffer": {"io": "in_and_out"}}),
        "reads one thing, predicts another",
    ),
    (dl_with("AutoEncoder", AUTO_ENCODER, {"buffer": {"io": "in"}}), "no file says where it reads"),
    (
        dl_with("AutoEncoder", AUTO_ENCODER, {"trainer": {"submodule_name": None}}),
        "no file says where it reads; give --hook-point",
    ),
    (
        dl_with("AutoEncoder", {"step": 3, "ae": AUTO_ENCODER, "optimizer": {}, "config": {}}),
        "is a backup of unfinished training",
    ),
    (
        openai_with(activation="TopK", activation_state_dict={"k": 32, "postact_fn": "ReLU"}),
        "after a layer norm",
    ),
    (openai_with(activation="Identity"), "activation must be 'ReLU', found 'Identity'"),
    (openai_with(), "no file says which model it was trained on"),
    (llama_with(norm_activation="token-wise"), "norm_activation must be 'dataset-wise', found 'token-wise'"),
    (llama_with(act_fn="topk"), "act_fn must be 'jumprelu', found 'topk'"),
    (llama_with(use_glu_encoder=True), "use_glu_encoder must be False, found True"),
    (llama_with(hook_point_out="blocks.1.hook_mlp_out"), "is a transcoder"),
    (llama_with(jump_relu_threshold=-1), "jump_relu_threshold must be at least 0, found -1"),
    (llama_with(dataset_average_activation_norm={"in": 0, "out": 1}), "in must be above 0, found 0"),
    (llama_with(dataset_average_activation_norm={"in": 1}), "key 'out' is missing"),
]


@pytest.mark.parametrize(("make", "reason"), SAELENS, ids=[reason for _, reason in SAELENS])
def test_saelens(tmp_path: Path, make: Make, reason: str):
    path = make(tmp_path / "source")

    message = refused(path)

    assert reason in message
    assert str(path) in message


@pytest.mark.parametrize(("make", "reason"), OTHERS, ids=[reason for _, reason in OTHERS])
def test_other_layouts(tmp_path: Path, make: Make, reason: str):
    path = make(tmp_path / "source")

    message = refused(path)

    assert reason in message
    assert str(path) in message


def test_a_hook_point_that_the_file_contradicts(tmp_path: Path):
    path = saelens_with()(tmp_path / "source")

    message = refused(path, ImportOptions(hook_point="blocks.2.hook_resid_post"))

    assert (
        "reads blocks.1.hook_resid_post (blocks.1.hook_resid_post), not blocks.2.hook_resid_post" in message
    )


def test_a_hook_point_that_is_none(tmp_path: Path):
    path = saelens_with()(tmp_path / "source")

    assert "hook point 'resid' is not blocks.LAYER" in refused(path, ImportOptions(hook_point="resid"))


@pytest.mark.parametrize(
    ("make", "scale", "reason"),
    [
        (saelens_with(), 2.0, "there is no activation scale to fold; found 2.0"),
        (saelens_with(normalize_activations="expected_average_only_in"), 0.0, "must be above 0, found 0"),
        (saelens_with(normalize_activations="expected_average_only_in"), float("nan"), "must be above 0"),
        (
            lambda folder: saelens_files.saelens_batch_topk_checkpoint(folder).path,
            2.0,
            "activation_scaler.json says 0.37, --activation-scale 2",
        ),
    ],
)
def test_an_activation_scale_that_cannot_be(tmp_path: Path, make: Make, scale: float, reason: str):
    path = make(tmp_path / "source")

    assert reason in refused(path, ImportOptions(activation_scale=scale))


def test_k_of_a_qwen_scope_file(tmp_path: Path):
    w = Weights()
    state = {"W_enc": w.W_enc.T, "W_dec": w.W_dec.T, "b_enc": w.b_enc, "b_dec": w.b_dec}
    save_pt(tmp_path / "layer1.sae.pt", state)
    named = layout_files.qwen_scope(tmp_path / "source").path

    assert "give --k K" in refused(tmp_path / "layer1.sae.pt")
    assert "says k = 5, --k says 7" in refused(named, ImportOptions(k=7))
    import_sae(tmp_path / "layer1.sae.pt", tmp_path / "out", ImportOptions(k=7, model="Qwen/Qwen3-1.7B-Base"))
    assert load_sae(tmp_path / "out").metadata.architecture == "topk"


def test_files_in_names_that_are_ours_but_transposed(tmp_path: Path):
    w = Weights()
    stored = w.ours() | {"W_enc": w.W_enc.T, "W_dec": w.W_dec.T}
    path = saelens(tmp_path / "source", stored, SAELENS_CFG)

    assert "tensor W_enc: expected shape (12, 40), found (40, 12)" in refused(path)


@pytest.mark.parametrize(
    ("name", "tensor", "reason"),
    [
        (
            "W_enc",
            torch.full((D_MODEL, D_SAE), torch.nan),
            "expected finite values, found nan at (0, 0), 480",
        ),
        ("b_dec", torch.full((D_MODEL,), torch.inf), "tensor b_dec: expected finite values, found inf"),
        (
            "b_enc",
            torch.zeros(D_SAE, dtype=torch.int32),
            "tensor b_enc: expected dtype F32 or BF16 or F16 or F64, found I32",
        ),
        ("b_enc", torch.zeros(D_SAE, dtype=torch.float8_e4m3fn), "found F8_E4M3"),
        ("b_enc", torch.zeros(D_SAE, 1), "tensor b_enc: expected shape (40,), found (40, 1)"),
        ("b_enc", torch.tensor(1.0), "tensor b_enc: expected shape (40,), found ()"),
    ],
)
def test_wrong_tensors(tmp_path: Path, name: str, tensor: torch.Tensor, reason: str):
    assert reason in refused(saelens_with({name: tensor})(tmp_path / "source"))


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_values_that_are_not_finite_in_every_kind_of_file(tmp_path: Path, value: float):
    bad = torch.full((D_MODEL,), value)
    npz = gemma_at("gemma-scope-2b-pt-res/layer_1", b_dec=bad.numpy())(tmp_path / "npz")
    pt = dl_with("AutoEncoder", AUTO_ENCODER | {"bias": bad})(tmp_path / "pt")

    assert f"params.npz: tensor b_dec: expected finite values, found {value}" in refused(npz)
    assert f"ae.pt: tensor bias: expected finite values, found {value}" in refused(pt)


def test_weights_beyond_float32(tmp_path: Path):
    stored = {"b_dec": torch.full((D_MODEL,), 1e300, dtype=torch.float64)}

    assert "tensor b_enc: expected finite values, found inf" in refused(
        saelens_with(stored)(tmp_path / "source")
    )


def test_damaged_configs(tmp_path: Path):
    path = saelens_with()(tmp_path / "source")

    (path / "cfg.json").write_text("{")
    assert re.search(r"cfg\.json: is not JSON", refused(path))
    save_json(path / "cfg.json", {key: SAELENS_CFG[key] for key in SAELENS_CFG if key != "d_in"})
    assert "cfg.json: key 'd_in' is missing" in refused(path)


def test_a_place_with_nothing_there(tmp_path: Path):
    with pytest.raises(SaeFileError, match="nowhere: expected a folder or a weights file, found nothing"):
        import_sae(tmp_path / "nowhere", tmp_path / "out", ImportOptions())
