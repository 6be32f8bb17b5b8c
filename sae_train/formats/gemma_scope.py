"""Gemma Scope 1 and 2 (JumpReLU, arXiv 2408.05147): the weights in our orientation, b_dec not on the input.

1 is a bare `params.npz`: model, layer and hook point are in its path, as the hub's repositories have it
(`gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71`). 2 is `params.safetensors` with names in lower case
and a `config.json`.
"""

from __future__ import annotations

import re

from sae_train.formats.foreign_sae import ForeignSae, plain_weights
from sae_train.formats.hook_names import resolve_hook_point
from sae_train.formats.layout import ImportOptions, Layout, model_name
from sae_train.formats.source import Source
from sae_train.formats.stored_tensors import StoredTensors, check_widths
from steerd.errors import SaeFileError
from steerd.sae.activation_function import JumpReLU
from steerd.sae.autoencoder import SparseAutoencoder
from steerd.sae.json_file import field

_NPZ, _SAFETENSORS, _CONFIG = "params.npz", "params.safetensors", "config.json"

_REPOSITORY = re.compile(r"gemma-scope-(2b|9b|27b)-(pt|it)-(\w+)")
_HOOKS = {"res": "hook_resid_post", "mlp": "hook_mlp_out", "att": "attn.hook_z"}


def _read_1(source: Source, options: ImportOptions) -> ForeignSae:
    stored, place = source.weights(_NPZ), source.place
    if "embedding" in place or "transcoder" in place:
        raise SaeFileError(f"{source.folder}: is no autoencoder of a hook point of ours, by its path")
    # Some releases write w_enc, others W_enc.
    names = {name: name for name in stored.names} | {
        "W_" + name[2:]: name for name in stored.names if name.startswith("w_")
    }
    weights = _weights(stored, names.get("W_enc", "W_enc"), names.get("W_dec", "W_dec"))
    _check_width(source, weights.d_sae)
    repository, layer = _REPOSITORY.search(place), re.search(r"layer_(\d+)", place)
    said_model = said_hook = None
    if repository is not None:
        size, variant, site = repository.groups()
        said_model = f"google/gemma-2-{size}" + ("-it" if variant == "it" else "")
        if layer is not None and site in _HOOKS:
            said_hook = f"blocks.{layer[1]}.{_HOOKS[site]}"
    average_l0 = re.search(r"average_l0_(\d+)", place)
    return ForeignSae(
        layout=LAYOUT_1.name,
        kind="JumpReLU",
        model_name=model_name(said_model, options, source.folder),
        hook_point=resolve_hook_point(said_hook, options.hook_point, source.folder),
        weights=weights,
        about={"prepend_bos": True} | ({"average_l0": int(average_l0[1])} if average_l0 else {}),
    )


def _read_2(source: Source, options: ImportOptions) -> ForeignSae:
    config, where = source.json(_CONFIG), source.folder / _CONFIG
    architecture = field(config, "architecture", str, str(where))
    if architecture != "jump_relu":
        raise SaeFileError(f"{where}: architecture must be 'jump_relu', found {architecture!r}")
    hook, hook_out = config.get("hf_hook_point_in"), config.get("hf_hook_point_out")
    stored = source.weights(_SAFETENSORS)
    if config.get("affine_connection") or "affine_skip_connection" in stored.names:
        raise SaeFileError(f"{where}: has an affine skip connection: a part of its output no feature carries")
    if hook_out not in (None, hook):
        raise SaeFileError(f"{where}: is a transcoder: reads {hook}, predicts {hook_out}")
    return ForeignSae(
        layout=LAYOUT_2.name,
        kind="JumpReLU",
        model_name=model_name(_gemma_3(config.get("model_name")), options, where),
        hook_point=resolve_hook_point(hook, options.hook_point, where),
        weights=_weights(stored, "w_enc", "w_dec"),
        about={"prepend_bos": True, "config": config},
    )


def _weights(stored: StoredTensors, w_enc: str, w_dec: str) -> SparseAutoencoder:
    required = (w_enc, "b_enc", w_dec, "b_dec", "threshold")
    stored.expect(required, optional=("scaling_factor",))
    d_model, d_sae = stored.matrix_shape(w_enc)
    check_widths(stored.path, d_model, d_sae)
    W_dec = stored.take(w_dec, (d_sae, d_model))
    if "scaling_factor" in stored.names:
        factors = stored.take("scaling_factor", (d_sae,))
        if not bool((factors == 1).all()):
            raise SaeFileError(
                f"{stored.path}: tensor scaling_factor: expected ones, found {factors.min():.6g} to "
                f"{factors.max():.6g}: whether to apply it no file says"
            )
    return plain_weights(
        stored.take(w_enc, (d_model, d_sae)),
        stored.take("b_enc", (d_sae,)),
        W_dec,
        stored.take("b_dec", (d_model,)),
        JumpReLU(stored.take("threshold", (d_sae,))),
    )


def _check_width(source: Source, d_sae: int) -> None:
    """The path gives the number of features in thousands, or millions of 2^20."""
    said = re.search(r"width_(\d+)([km])", source.place)
    if said is not None and d_sae // (1000 if said[2] == "k" else 2**20) != int(said[1]):
        raise SaeFileError(f"{source.folder}: is named {said[0]} but W_enc has d_sae = {d_sae}")


def _gemma_3(name: object) -> str | None:
    """Its configs spell `gemma-v3-1b-pt` what the hub calls `google/gemma-3-1b-pt`."""
    if not isinstance(name, str):
        return None
    hub = name.replace("-v3", "-3")
    hub = hub.removesuffix("-pt") if "270m" in hub else hub
    return hub if hub.startswith("google/") else f"google/{hub}"


LAYOUT_1 = Layout(
    name="gemma_scope",
    marks=_NPZ,
    recognises=lambda source: source.has(_NPZ),
    read=_read_1,
)
LAYOUT_2 = Layout(
    name="gemma_scope_2",
    marks=f"{_CONFIG} and {_SAFETENSORS}",
    recognises=lambda source: source.has(_CONFIG) and source.has(_SAFETENSORS),
    read=_read_2,
)
