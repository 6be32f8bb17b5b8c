"""Cases of dictionary_learning: one a dictionary class, saved as its `trainSAE` saves them.

`python -m benchmarks.format_peers.dictionary_learning_cases FOLDER`, in an environment that has
dictionary-learning.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.format_peers.case_files import (
    D_MODEL,
    D_SAE,
    Case,
    Expected,
    K,
    RandomWeights,
    case_folder,
    write_case,
)

_TRAINERS = "dictionary_learning.trainers"
_MODULES = {
    "AutoEncoder": ("dictionary_learning.dictionary", f"{_TRAINERS}.standard", "StandardTrainer"),
    "AutoEncoderNew": ("dictionary_learning.dictionary", None, None),
    "GatedAutoEncoder": ("dictionary_learning.dictionary", f"{_TRAINERS}.gdm", "GatedSAETrainer"),
    "AutoEncoderTopK": (f"{_TRAINERS}.top_k", f"{_TRAINERS}.top_k", "TopKTrainer"),
    "BatchTopKSAE": (f"{_TRAINERS}.batch_top_k", f"{_TRAINERS}.batch_top_k", "BatchTopKTrainer"),
    "MatryoshkaBatchTopKSAE": (
        f"{_TRAINERS}.matryoshka_batch_top_k",
        f"{_TRAINERS}.matryoshka_batch_top_k",
        "MatryoshkaBatchTopKTrainer",
    ),
    "JumpReluAutoEncoder": ("dictionary_learning.dictionary", f"{_TRAINERS}.jumprelu", "JumpReluTrainer"),
}
_WITH_K = ("AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE")
_NORM_FACTOR = 3.7


def main() -> None:
    """Write every case."""
    root = Path(sys.argv[1])
    for seed, kind in enumerate(_MODULES):
        _write(root, kind, seed)
    _write(root, "BatchTopKSAE", 20, threshold=-1.0, refused="threshold: must be at least 0, found -1")
    _write(root, "GatedAutoEncoder", 21, norm_factor=_NORM_FACTOR)
    _write(root, "AutoEncoderTopK", 22, norm_factor=_NORM_FACTOR)
    _write(root, "JumpReluAutoEncoder", 23, norm_factor=_NORM_FACTOR)


def _write(
    root: Path, kind: str, seed: int, *, norm_factor: float = 0.0, threshold: float = 0.4, refused: str = ""
) -> None:
    weights = RandomWeights(seed)
    dictionary, config = _dictionary_and_config(kind)
    _set_weights(dictionary, kind, weights, threshold)
    label = kind + (", scaled biases" if norm_factor else "") + (", no threshold" if refused else "")
    if norm_factor:
        dictionary.scale_biases(norm_factor)
    case = Case(
        peer=f"dictionary_learning {version('dictionary-learning')}",
        layout="dictionary_learning",
        kind=label,
        path="sae/trainer_0",
        refused=refused,
    )
    folder = case_folder(root, case)
    saved = folder / case.path
    saved.mkdir(parents=True, exist_ok=True)
    torch.save({name: value.cpu() for name, value in dictionary.state_dict().items()}, saved / "ae.pt")
    (saved / "config.json").write_text(json.dumps({"trainer": config, "buffer": _BUFFER}, indent=4))
    with torch.no_grad():
        loaded = _load(type(dictionary), kind, saved / "ae.pt")
        acts = loaded.encode(weights.x)
        write_case(folder, case, None if refused else Expected(weights.x, acts, loaded.decode(acts)))


_BUFFER = {"d_submodule": D_MODEL, "io": "out", "n_ctxs": 2000, "ctx_len": 1024, "out_batch_size": 2048}


# Any: the peer's classes have no types here.
def _dictionary_and_config(kind: str) -> tuple[Any, dict[str, Any]]:
    home, trainer_home, trainer_name = _MODULES[kind]
    if trainer_home is None or trainer_name is None:
        dictionary = getattr(import_module(home), kind)(D_MODEL, D_SAE)
        common = {"dict_class": kind, "activation_dim": D_MODEL, "dict_size": D_SAE, "layer": 3}
        return dictionary, common | {"lm_name": "tiny/host", "submodule_name": "resid_post_layer_3"}
    settings: dict[str, Any] = {"k": K} if kind in _WITH_K else {}
    if kind == "MatryoshkaBatchTopKSAE":
        settings["group_fractions"] = [0.25, 0.25, 0.5]
    trainer = getattr(import_module(trainer_home), trainer_name)(
        steps=10_000,
        activation_dim=D_MODEL,
        dict_size=D_SAE,
        layer=3,
        lm_name="tiny/host",
        submodule_name="resid_post_layer_3",
        device="cpu",
        **settings,
    )
    return trainer.ae, trainer.config


def _set_weights(dictionary: Any, kind: str, weights: RandomWeights, threshold: float) -> None:
    state = dictionary.state_dict()
    shared = {
        "encoder.weight": weights.W_enc.T,
        "encoder.bias": weights.b_enc,
        "decoder.weight": weights.W_dec.T,
        "decoder.bias": weights.b_dec,
        "decoder_bias": weights.b_dec,
        "bias": weights.b_dec,
        "gate_bias": weights.b_gate,
        "mag_bias": weights.b_mag,
        "r_mag": weights.r_mag,
        "W_enc": weights.W_enc,
        "W_dec": weights.W_dec,
        "b_enc": weights.b_enc,
        "b_dec": weights.b_dec,
        "threshold": weights.threshold if kind == "JumpReluAutoEncoder" else torch.tensor(threshold),
    }
    dictionary.load_state_dict({name: shared.get(name, value) for name, value in state.items()})


def _load(dictionary_class: Any, kind: str, path: Path) -> Any:
    if kind == "AutoEncoder":
        return dictionary_class.from_pretrained(path, normalize_decoder=False)
    return dictionary_class.from_pretrained(path)


if __name__ == "__main__":
    main()
