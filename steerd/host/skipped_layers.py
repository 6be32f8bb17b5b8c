"""Forwards in which layers are not run, since what they return is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from steerd.host.decoder_layers import LayerCall
from steerd.host.residual_stream import resid_out, with_resid_out


@contextmanager
def layers_returning(resid: Tensor, layer_calls: Sequence[LayerCall]) -> Iterator[None]:
    """Inside the block these layers return `resid` [batch, seq, d_model], in their own form, at once."""
    before = [call.layer.__dict__.get("forward") for call in layer_calls]
    try:
        for call in layer_calls:
            _set_forward(call.layer, _returns(with_resid_out(resid, call.output)))
        yield
    finally:
        for call, forward in zip(layer_calls, before, strict=True):
            _set_forward(call.layer, forward)


@torch.no_grad()
def can_skip(model: PreTrainedModel, layer_calls: Sequence[LayerCall], input_ids: Tensor) -> bool:
    """Whether these layers, the model's first, pass nothing on but the residual stream; by trying.

    `input_ids` [1, tokens] are tried. Some hosts have late layers use keys and values of early ones.
    """
    seen: list[Tensor | None] = []
    last = layer_calls[-1].layer
    handle = last.register_forward_hook(lambda _module, _args, output: seen.append(resid_out(output)))
    try:
        whole = model(input_ids=input_ids, use_cache=False).logits
    finally:
        handle.remove()
    assert seen[0] is not None  # the layers' form was checked at load
    model(input_ids=input_ids.flip(1), use_cache=False)  # so that nothing is left of the first anywhere
    with layers_returning(seen[0].clone(), layer_calls):
        try:
            rest = model(input_ids=input_ids, use_cache=False).logits
        except Exception:  # of whatever kind it is when something is missing
            return False
    return torch.allclose(rest, whole, rtol=1e-3, atol=1e-3 * float(whole.abs().max()))


def _returns(output: Any) -> Callable[..., Any]:
    return lambda *_args, **_kwargs: output


def _set_forward(layer: torch.nn.Module, forward: Callable[..., Any] | None) -> None:
    """Give one module a forward of its own, or with None that of its class again."""
    if forward is None:
        del layer.__dict__["forward"]
    else:
        layer.__dict__["forward"] = forward
