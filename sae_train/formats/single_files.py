"""Two releases that are one `.pt` file each, with nothing beside it: Qwen Scope and Goodfire.

Qwen Scope: a TopK with both matrices transposed, b_dec not on the input; k and model are in the repository's
name (`SAE-Res-Qwen3-1.7B-Base-W32K-L0_50/layer5.sae.pt`). Goodfire: two torch.nn.Linear and a ReLU.
"""

from __future__ import annotations

import re

from sae_train.formats.foreign_sae import ForeignSae, plain_weights
from sae_train.formats.hook_names import resolve_hook_point
from sae_train.formats.layout import ImportOptions, Layout, checked_k, model_name
from sae_train.formats.source import Source
from sae_train.formats.stored_tensors import StoredTensors, check_widths
from steerd.errors import SaeFileError
from steerd.sae.activation_function import ReLU, TopK

_QWEN_TENSORS = ("W_enc", "b_enc", "W_dec", "b_dec")
_QWEN_FILE = re.compile(r"layer(\d+)\.sae\.pt")
_QWEN_REPOSITORY = re.compile(r"SAE-Res-(.+?)-W\d+K-L0_(\d+)")

_GOODFIRE_TENSORS = (
    "encoder_linear.weight",
    "encoder_linear.bias",
    "decoder_linear.weight",
    "decoder_linear.bias",
)
_GOODFIRE_FILE = re.compile(r"(Llama-[\w.]+-[\w.]+-Instruct)-SAE-l(\d+)\.pth?")


def _read_qwen(source: Source, options: ImportOptions) -> ForeignSae:
    stored = _named(source)
    stored.expect(_QWEN_TENSORS)
    d_sae, d_model = stored.matrix_shape("W_enc")
    check_widths(stored.path, d_model, d_sae)
    repository, file = _QWEN_REPOSITORY.search(source.place), _QWEN_FILE.fullmatch(stored.path.name)
    k = int(repository[2]) if repository else options.k
    if k is None:
        raise SaeFileError(f"{stored.path}: no name says how many features are active; give --k K")
    if options.k not in (None, k):
        raise SaeFileError(f"{stored.path}: its repository's name says k = {k}, --k says {options.k}")
    return ForeignSae(
        layout=QWEN_SCOPE.name,
        kind="TopK",
        model_name=model_name(f"Qwen/{repository[1]}" if repository else None, options, stored.path),
        hook_point=resolve_hook_point(
            f"blocks.{file[1]}.hook_resid_post" if file else None, options.hook_point, stored.path
        ),
        weights=plain_weights(
            stored.take("W_enc", (d_sae, d_model)).T,
            stored.take("b_enc", (d_sae,)),
            stored.take("W_dec", (d_model, d_sae)).T,
            stored.take("b_dec", (d_model,)),
            TopK(checked_k(k, d_sae, stored.path)),
        ),
        turned=("W_enc and W_dec transposed",),
    )


def _read_goodfire(source: Source, options: ImportOptions) -> ForeignSae:
    stored = _named(source)
    stored.expect(_GOODFIRE_TENSORS)
    d_sae, d_model = stored.matrix_shape("encoder_linear.weight")
    check_widths(stored.path, d_model, d_sae)
    file = _GOODFIRE_FILE.fullmatch(stored.path.name)
    return ForeignSae(
        layout=GOODFIRE.name,
        kind="ReLU",
        model_name=model_name(f"meta-llama/{file[1]}" if file else None, options, stored.path),
        hook_point=resolve_hook_point(
            f"blocks.{file[2]}.hook_resid_post" if file else None, options.hook_point, stored.path
        ),
        weights=plain_weights(
            stored.take("encoder_linear.weight", (d_sae, d_model)).T,
            stored.take("encoder_linear.bias", (d_sae,)),
            stored.take("decoder_linear.weight", (d_model, d_sae)).T,
            stored.take("decoder_linear.bias", (d_model,)),
            ReLU(),
        ),
        turned=("both weights transposed",),
    )


def _named(source: Source) -> StoredTensors:
    assert source.named_file is not None, "recognised by one file"
    return source.weights(source.named_file)


def _is_qwen(source: Source) -> bool:
    return source.named_file is not None and _QWEN_FILE.fullmatch(source.named_file) is not None


def _is_goodfire(source: Source) -> bool:
    name = source.named_file
    if name is None or not name.endswith((".pt", ".pth")):
        return False
    return set(_GOODFIRE_TENSORS) <= source.weights(name).names


QWEN_SCOPE = Layout(
    name="qwen_scope",
    marks="one file layerN.sae.pt",
    recognises=_is_qwen,
    read=_read_qwen,
    uses=frozenset({"k"}),
)
GOODFIRE = Layout(
    name="goodfire",
    marks="one .pt file with encoder_linear and decoder_linear",
    recognises=_is_goodfire,
    read=_read_goodfire,
)
