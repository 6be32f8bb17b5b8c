"""`cfg.json` in SAELens's form: what it says about the weights beside it, read and written."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from torch import Tensor

from steerd.errors import SaeFileError
from steerd.sae.activation_function import ActivationFunction, JumpReLU, ReLU, TopK
from steerd.sae.json_file import JsonObject, field, positive_field, read_json_object
from steerd.sae.tensor_file import TensorSpec

Architecture = Literal["standard", "jumprelu", "topk"]
ARCHITECTURES: tuple[Architecture, ...] = get_args(Architecture)

# The SAELens release whose form is written here; without a version in the file, SAELens reads it as one of
# its older forms.
_SAELENS_VERSION = "6.54.12"

IMPORT_HINT = "`sae-train import` turns other tools' and older files into an SAE folder"


@dataclass(frozen=True, slots=True)
class SaeConfigFile:
    """What decides the meaning of the weights: `cfg.json` without what SAELens's own tools keep there.

    `rescale_acts_by_decoder_norm` is SAELens's word for a TopK SAE that chooses by pre-activation times
    decoder norm and reports that product.
    """

    architecture: Architecture
    d_model: int
    d_sae: int
    model_name: str
    hook_point: str
    k: int | None = None
    apply_b_dec_to_input: bool = False
    rescale_acts_by_decoder_norm: bool = False

    def tensor_specs(self) -> dict[str, TensorSpec]:
        """The tensors that belong in the weights file."""
        specs = {
            "W_enc": TensorSpec((self.d_model, self.d_sae)),
            "b_enc": TensorSpec((self.d_sae,)),
            "W_dec": TensorSpec((self.d_sae, self.d_model)),
            "b_dec": TensorSpec((self.d_model,)),
        }
        if self.architecture == "jumprelu":
            specs["threshold"] = TensorSpec((self.d_sae,))
        return specs

    def activation(self, tensors: dict[str, Tensor]) -> ActivationFunction:
        """The activation function, its threshold from the weights file."""
        if self.architecture == "jumprelu":
            return JumpReLU(tensors["threshold"])
        if self.architecture == "topk":
            assert self.k is not None, "read_config asks a topk file for its k"
            return TopK(self.k)
        return ReLU()


def architecture_of(activation: ActivationFunction) -> Architecture:
    """SAELens's name for an SAE with that activation function."""
    if isinstance(activation, JumpReLU):
        return "jumprelu"
    return "topk" if isinstance(activation, TopK) else "standard"


def read_config(path: Path) -> SaeConfigFile:
    """Read `cfg.json`; raises SaeFileError for what is missing, mistyped, or without a plain form."""
    record, where = read_json_object(path), str(path)
    if "metadata" not in record:
        raise SaeFileError(f"{where}: key 'metadata' is missing; {IMPORT_HINT}")
    architecture = _read_architecture(record, where)
    metadata = field(record, "metadata", dict, where)
    _refuse_runtime_conventions(record, where)
    d_sae = positive_field(record, "d_sae", where)
    rescale = _read_rescale(record, architecture, where)
    return SaeConfigFile(
        architecture=architecture,
        d_model=positive_field(record, "d_in", where),
        d_sae=d_sae,
        model_name=field(metadata, "model_name", str, f"{where}: metadata"),
        hook_point=field(metadata, "hook_name", str, f"{where}: metadata"),
        k=_read_k(record, d_sae, where) if architecture == "topk" else None,
        apply_b_dec_to_input=field(record, "apply_b_dec_to_input", bool, where),
        rescale_acts_by_decoder_norm=rescale,
    )


def config_bytes(config: SaeConfigFile) -> bytes:
    """`cfg.json` for plain-form weights, with all that SAELens asks for.

    `dtype` is what SAELens computes in, whatever the weights are stored in: float32, as we do.
    """
    record: JsonObject = {
        "architecture": config.architecture,
        "d_in": config.d_model,
        "d_sae": config.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": config.apply_b_dec_to_input,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": _SAELENS_VERSION,
            "sae_lens_training_version": None,
            "model_name": config.model_name,
            "model_class_name": "AutoModelForCausalLM",
            "hook_name": config.hook_point,
            "hook_head_index": None,
        },
    }
    if config.k is not None:
        record |= {"k": config.k, "rescale_acts_by_decoder_norm": config.rescale_acts_by_decoder_norm}
    return (json.dumps(record, indent=2) + "\n").encode()


def _read_architecture(record: JsonObject, where: str) -> Architecture:
    name = field(record, "architecture", str, where)
    for architecture in ARCHITECTURES:
        if name == architecture:
            return architecture
    raise SaeFileError(f"{where}: architecture must be one of {ARCHITECTURES}, found {name!r}; {IMPORT_HINT}")


def _refuse_runtime_conventions(record: JsonObject, where: str) -> None:
    """These change what the encoder reads from token to token, so no weights can stand for them."""
    for key in ("normalize_activations", "reshape_activations"):
        value = record.get(key, "none")
        if value != "none":
            raise SaeFileError(f"{where}: {key} must be 'none', found {value!r}")


def _read_rescale(record: JsonObject, architecture: Architecture, where: str) -> bool:
    if "rescale_acts_by_decoder_norm" not in record:
        return False
    rescale = field(record, "rescale_acts_by_decoder_norm", bool, where)
    if rescale and architecture != "topk":
        raise SaeFileError(f"{where}: rescale_acts_by_decoder_norm is for topk only, found {architecture}")
    return rescale


def _read_k(record: JsonObject, d_sae: int, where: str) -> int:
    k = positive_field(record, "k", where)
    if k > d_sae:
        raise SaeFileError(f"{where}: k must be at most d_sae = {d_sae}, found {k}")
    return k
