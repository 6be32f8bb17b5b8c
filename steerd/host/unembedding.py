"""From rows of the residual stream to logits, by the host's own code after its last layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from steerd.host.decoder_layers import LayerCall
from steerd.host.residual_stream import with_resid_out


def unembedded(model: PreTrainedModel, layer_calls: Sequence[LayerCall], rows: Tensor) -> Tensor:
    """Logits [rows, vocab] in float32 of rows [rows, d_model], each as if it had left the last layer.

    The model itself runs, its layers put out of the way: final norm, head, scales and soft caps are whatever
    they are. Each row is a text of one token, since nothing after the layers looks at other positions.
    """
    with _layers_returning(rows.to(model.dtype).unsqueeze(1), layer_calls):
        ids = torch.zeros(len(rows), 1, dtype=torch.long, device=rows.device)
        logits: Tensor = model(input_ids=ids, use_cache=False).logits
    return logits.squeeze(1).float()


@contextmanager
def _layers_returning(resid: Tensor, layer_calls: Sequence[LayerCall]) -> Iterator[None]:
    """Inside the block every layer returns `resid` [batch, seq, d_model], in its own form, at once."""
    before = [call.layer.__dict__.get("forward") for call in layer_calls]
    try:
        for call in layer_calls:
            _set_forward(call.layer, _returns(with_resid_out(resid, call.output)))
        yield
    finally:
        for call, forward in zip(layer_calls, before, strict=True):
            _set_forward(call.layer, forward)


def _returns(output: Any) -> Callable[..., Any]:
    return lambda *_args, **_kwargs: output


def _set_forward(layer: nn.Module, forward: Callable[..., Any] | None) -> None:
    """Give one module a forward of its own, or with None that of its class again."""
    if forward is None:
        del layer.__dict__["forward"]
    else:
        layer.__dict__["forward"] = forward
