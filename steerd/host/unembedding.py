"""From rows of the residual stream to logits, by the host's own code after its last layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from steerd.host.decoder_layers import LayerCall
from steerd.host.skipped_layers import layers_returning


def unembedded(model: PreTrainedModel, layer_calls: Sequence[LayerCall], rows: Tensor) -> Tensor:
    """Logits [rows, vocab] in float32 of rows [rows, d_model], each as if it had left the last layer.

    The model itself runs, its layers put out of the way: final norm, head, scales and soft caps are whatever
    they are. Each row is a text of one token, since nothing after the layers looks at other positions.
    """
    with layers_returning(rows.to(model.dtype).unsqueeze(1), layer_calls):
        ids = torch.zeros(len(rows), 1, dtype=torch.long, device=rows.device)
        logits: Tensor = model(input_ids=ids, use_cache=False).logits
    return logits.squeeze(1).float()
