"""Names of places in a model, in many tools' words."""

from __future__ import annotations

import pytest

from sae_train.formats.hook_names import resolve_hook_point
from steerd.errors import SaeFileError


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("blocks.7.hook_resid_pre", "blocks.7.hook_resid_pre"),
        ("blocks.7.hook_attn_out", "blocks.7.hook_attn_out"),
        ("layers.7", "blocks.7.hook_resid_post"),
        ("h.7", "blocks.7.hook_resid_post"),
        ("gpt_neox.layers.7", "blocks.7.hook_resid_post"),
        ("model.layers.7", "blocks.7.hook_resid_post"),
        ("model.layers.7.output", "blocks.7.hook_resid_post"),
        ("model.language_model.layers.7.output", "blocks.7.hook_resid_post"),
        ("model.layers.7.input", "blocks.7.hook_resid_pre"),
        ("model.layers.7.post_feedforward_layernorm.output", "blocks.7.hook_mlp_out"),
    ],
)
def test_certain_names(said: str, expected: str):
    assert str(resolve_hook_point(said, None, "here")) == expected
    assert str(resolve_hook_point(said, expected, "here")) == expected


@pytest.mark.parametrize(
    "said",
    [
        None,
        "layers.7.mlp",  # added as it is in Llama, normalised first in Gemma
        # the MLP's input in Llama, what attention adds in Gemma
        "model.layers.7.post_attention_layernorm.output",
        "encoder.layers.7",
        "layers.seven",
    ],
)
def test_uncertain_names_need_the_user(said: str | None):
    with pytest.raises(SaeFileError, match=r"here: .*; give --hook-point blocks\.LAYER\.hook_SITE"):
        resolve_hook_point(said, None, "here")

    assert str(resolve_hook_point(said, "blocks.7.hook_mlp_out", "here")) == "blocks.7.hook_mlp_out"


@pytest.mark.parametrize(
    "said", ["blocks.7.attn.hook_z", "embed_tokens", "blocks.7.mlp.hook_post", "blocks.7.mlp.hook_in"]
)
def test_places_that_steerd_does_not_serve_are_refused_whatever_the_user_says(said: str):
    with pytest.raises(SaeFileError, match="where steerd has no hook point"):
        resolve_hook_point(said, "blocks.7.hook_attn_out", "here")
