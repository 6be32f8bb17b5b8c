"""OpenAI's sparse_autoencoder: one `.pt` state dict, its activation function written beside the tensors.

encode: activation((x - pre_bias) @ encoder.weightᵀ + latent_bias). A file whose activation is TopK also has
its inputs layer-normalised token by token: its own reader infers the one from the other.
"""

from __future__ import annotations

import re

from sae_train.formats.foreign_sae import ForeignSae, plain_weights
from sae_train.formats.hook_names import resolve_hook_point
from sae_train.formats.layout import ImportOptions, Layout, model_name
from sae_train.formats.source import Source
from sae_train.formats.stored_tensors import check_widths
from steerd.errors import SaeFileError
from steerd.sae.activation_function import ReLU

_REQUIRED = ("pre_bias", "encoder.weight", "latent_bias", "decoder.weight")
_STATISTICS = ("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square")
_VALUES = frozenset({"activation", "activation_state_dict"})

# .../gpt2-small/resid_post_mlp_v5_32k/autoencoders/6.pt
_PLACE = re.compile(r"gpt2-small/(resid_\w+?_(?:attn|mlp)|mlp_post_act)(?:_v\w+)?/autoencoders/(\d+)\.pt$")
_HOOKS = {
    "mlp_post_act": "mlp.hook_post",
    "resid_delta_attn": "hook_attn_out",
    "resid_post_attn": "hook_resid_mid",
    "resid_delta_mlp": "hook_mlp_out",
    "resid_post_mlp": "hook_resid_post",
}


def _read(source: Source, options: ImportOptions) -> ForeignSae:
    assert source.named_file is not None, "recognised by the tensors of one file"
    stored = source.weights(source.named_file)
    stored.expect(_REQUIRED, optional=_STATISTICS)
    activation = stored.values.get("activation", "ReLU")
    if activation == "TopK":
        raise SaeFileError(
            f"{stored.path}: activation must be 'ReLU', found 'TopK': "
            "such a file reads each token after a layer norm of its own, for which no weights can stand"
        )
    unknown = sorted(set(stored.values) - _VALUES)
    if activation != "ReLU" or unknown:
        raise SaeFileError(f"{stored.path}: activation must be 'ReLU', found {activation!r} and {unknown}")
    d_sae, d_model = stored.matrix_shape("encoder.weight")
    check_widths(stored.path, d_model, d_sae)
    place = _PLACE.search(source.place)
    return ForeignSae(
        layout=LAYOUT.name,
        kind="Autoencoder ReLU",
        model_name=model_name("gpt2" if place else None, options, stored.path),
        hook_point=resolve_hook_point(
            f"blocks.{place[2]}.{_HOOKS[place[1]]}" if place else None, options.hook_point, stored.path
        ),
        weights=plain_weights(
            stored.take("encoder.weight", (d_sae, d_model)).T,
            stored.take("latent_bias", (d_sae,)),
            stored.take("decoder.weight", (d_model, d_sae)).T,
            stored.take("pre_bias", (d_model,)),
            ReLU(),
        ),
        b_dec_on_input=True,
        turned=("encoder.weight and decoder.weight transposed",),
    )


def _recognises(source: Source) -> bool:
    name = source.named_file
    return name is not None and name.endswith(".pt") and set(_REQUIRED) <= source.weights(name).names


LAYOUT = Layout(
    name="openai",
    marks="one .pt file with pre_bias and latent_bias",
    recognises=_recognises,
    read=_read,
)
