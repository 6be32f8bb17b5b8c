"""The residual stream in what a torch module takes and returns, whatever form the architecture gives it.

Layers take it as their first argument or as `hidden_states`, and return it bare or as the first of a tuple.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

Args = tuple[Any, ...]
Kwargs = dict[str, Any]


def resid_in(args: Args, kwargs: Mapping[str, Any]) -> Tensor | None:
    """The stream among a layer's arguments; None when there is none."""
    resid = args[0] if args else kwargs.get("hidden_states")
    return resid if isinstance(resid, Tensor) else None


def with_resid_in(resid: Tensor, args: Args, kwargs: Mapping[str, Any]) -> tuple[Args, Kwargs]:
    """The same arguments with another stream."""
    if args:
        return (resid, *args[1:]), dict(kwargs)
    return args, {**kwargs, "hidden_states": resid}


def resid_out(output: Any) -> Tensor | None:
    """The stream in what a module returned; None when there is none."""
    if isinstance(output, tuple) and output:
        output = output[0]
    return output if isinstance(output, Tensor) else None


def with_resid_out(resid: Tensor, output: Any) -> Any:
    """The same output with another stream."""
    return (resid, *output[1:]) if isinstance(output, tuple) else resid


def carries(resid: Tensor | None, d_model: int) -> bool:
    """Whether it is one stream: [batch, seq, d_model], or [rows, d_model] as some MLPs have it."""
    return resid is not None and resid.dim() in (2, 3) and resid.shape[-1] == d_model
