"""A host's head in 8 bits on the CPU: logits sooner, and the residual stream as it was to the bit."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from steerd.errors import HostError

# Some processors sum the products of two pairs of 8 bits in 16. With values of 7 bits they never overflow.
_LARGEST = 127
_STEPS = 127  # of the values between -1 and 1


class Int8Linear(nn.Module):
    """x @ W.T + b with W rounded to 127 steps of each output's largest weight.

    Values are split into two numbers of 7 bits, so that what is lost is the weights' rounding. PyTorch takes
    one scale for all rows of a call, and what a request gets would depend on who shares its step; so rows are
    brought to a largest value of 1, and one row more holds 1 and -1: the scale is always the same. A row that
    is not finite comes out as NaN and leaves the others alone.
    """

    def __init__(self, linear: nn.Linear) -> None:
        """The layer it is made of stays as it is. Raises HostError for other layers than float32 on a CPU."""
        super().__init__()
        weight = linear.weight.detach()
        if weight.device.type != "cpu" or weight.dtype != torch.float32:
            dtype = str(weight.dtype).removeprefix("torch.")
            raise HostError(
                f"8-bit weights are for float32 on a CPU; this host is {dtype} on {weight.device}"
            )
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self._packed = _packed(weight)
        self._bias = None if linear.bias is None else linear.bias.detach()
        self._sentinel = torch.zeros(1, self.in_features)
        self._sentinel[0, 0], self._sentinel[0, -1] = 1.0, -1.0

    def forward(self, x: Tensor) -> Tensor:
        """[.., in_features] -> [.., out_features], float32."""
        rows = x.reshape(-1, self.in_features)
        largest = rows.abs().amax(dim=1, keepdim=True)  # [rows, 1]
        usable = largest.isfinite() & (largest > 0)
        scaled = torch.where(usable, rows / largest, 0.0)
        coarse = (scaled * (_STEPS / 2)).round_().clamp_(-(_STEPS // 2), _STEPS // 2).mul_(2 / _STEPS)
        rest = (scaled - coarse) * _STEPS  # between -1 and 1 as well
        parts = torch.cat([coarse, rest, self._sentinel])
        out: Tensor = torch.ops.quantized.linear_dynamic(parts, self._packed, reduce_range=True)
        out = (out[: len(rows)] + out[len(rows) : -1] / _STEPS) * largest  # 0 * inf is NaN
        if self._bias is not None:
            out += self._bias
        return out.view(*x.shape[:-1], self.out_features)


def quantize_head(model: nn.Module) -> None:
    """Put an Int8Linear in the place of a language model's head.

    An embedding that shares its weights with the head stays as it is. Raises HostError for a model whose head
    is no linear layer, and as Int8Linear does.
    """
    heads = [(name, module) for name, module in model.named_children() if type(module) is nn.Linear]
    if len(heads) != 1:
        raise HostError(f"{type(model).__name__} has {len(heads)} heads that are linear layers, not one")
    name, head = heads[0]
    setattr(model, name, Int8Linear(head))


def _packed(weight: Tensor) -> torch.ScriptObject:
    scales = (weight.abs().amax(dim=1) / _LARGEST).clamp_(min=torch.finfo(torch.float32).tiny)  # [out]
    steps = (weight / scales.unsqueeze(1)).round_().to(torch.int8)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.quantize_per_tensor", category=UserWarning)
        quantized = torch._make_per_channel_quantized_tensor(
            steps, scales.double(), torch.zeros(len(weight), dtype=torch.long), 0
        )
    packed: torch.ScriptObject = torch.ops.quantized.linear_prepack(quantized, None)
    return packed
