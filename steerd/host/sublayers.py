"""Which submodules' outputs are what attention and MLP add to the residual stream, found by experiment.

Names are not looked at. Of a layer run on its own it is asked:
1. Which two outputs a and m, added to its input, give its output (up to rounding)?
2. Forced to zero, do they leave the input unchanged, bit for bit? Does forcing either to a random r give
   exactly input + r? Then whatever these modules return is added to the stream as it is.
   An attention whose output is normalised (Gemma) or scaled (Granite) on its way fails this; the norm passes.
3. Which of the two moves information between tokens? That one is the attention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from steerd.errors import HostError
from steerd.host.decoder_layers import LayerCall
from steerd.host.residual_stream import carries, resid_out

# Rounding of the two additions is at most one eps of the summed magnitudes; this sieve in front of the exact
# test is a little wider.
_SIEVE_EPS = 4.0
# How much of the last token's output changes when the tokens before it change. What does not mix tokens shows
# rounding only; attention shows most of its output.
_MIXING_CHANGE = 0.02


class Sublayers(NamedTuple):
    """The modules of one layer whose outputs are added to the residual stream."""

    attn: nn.Module
    mlp: nn.Module


class _Output(NamedTuple):
    module: nn.Module
    value: Tensor  # shaped like the layer's output


def find_sublayers(call: LayerCall, *, may_use: Callable[[nn.Module], bool]) -> Sublayers:
    """Find them among the submodules that `may_use` admits. Raises HostError unless exactly one pair fits."""
    outputs = _submodule_outputs(call, may_use)
    pairs = [pair for pair in _plausible_pairs(call, outputs) if _are_added(call, pair)]
    if len(pairs) != 1:
        raise HostError(
            f"cannot tell what attention and MLP add to the residual stream in {type(call.layer).__name__}: "
            f"of the outputs of {len(outputs)} submodules, {len(pairs)} pairs are added to it as they are "
            "(it may scale or normalise them on the way); resid_pre and resid_post are available"
        )
    return _told_apart(call, pairs[0])


def _submodule_outputs(call: LayerCall, may_use: Callable[[nn.Module], bool]) -> list[_Output]:
    """Outputs as wide as the stream, of submodules called once; of equal ones the last to finish."""
    seen: list[_Output] = []
    shape = call.resid_pre.shape

    def record(module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        value = resid_out(output)
        if value is not None and carries(value, shape[-1]) and value.numel() == shape.numel():
            seen.append(_Output(module, value.clone().view(shape)))

    submodules = [module for module in call.layer.modules() if module is not call.layer and may_use(module)]
    handles = [module.register_forward_hook(record) for module in submodules]
    try:
        call.run(call.resid_pre)
    finally:
        for handle in handles:
            handle.remove()
    return [output for i, output in enumerate(seen) if _is_last_of_its_kind(output, seen[i + 1 :], seen[:i])]


def _is_last_of_its_kind(output: _Output, later: list[_Output], earlier: list[_Output]) -> bool:
    called_once = all(other.module is not output.module for other in (*later, *earlier))
    return called_once and not any(torch.equal(output.value, other.value) for other in later)


def _plausible_pairs(call: LayerCall, outputs: list[_Output]) -> Iterator[tuple[_Output, _Output]]:
    resid_post = call.run(call.resid_pre)
    eps = torch.finfo(resid_post.dtype).eps
    for a, m in combinations(outputs, 2):
        parts = [part.double() for part in (call.resid_pre, a.value, m.value)]
        error = (resid_post.double() - sum(parts)).abs()
        magnitude = torch.stack(parts).abs().sum(dim=0)
        if bool((error <= _SIEVE_EPS * eps * magnitude).all()):
            yield a, m


def _are_added(call: LayerCall, pair: tuple[_Output, _Output]) -> bool:
    resid = call.resid_pre
    zero, noise = torch.zeros_like(resid), _noise_like(resid)
    a, m = (output.module for output in pair)
    return (
        torch.equal(call.run(resid, {a: zero, m: zero}), resid)
        and torch.equal(call.run(resid, {a: noise, m: zero}), resid + noise)
        and torch.equal(call.run(resid, {a: zero, m: noise}), resid + noise)
    )


def _told_apart(call: LayerCall, pair: tuple[_Output, _Output]) -> Sublayers:
    first, second = (output.module for output in pair)
    mixes = (_mixes_tokens(call, first, silenced=second), _mixes_tokens(call, second, silenced=first))
    if mixes == (True, False):
        return Sublayers(attn=first, mlp=second)
    if mixes == (False, True):
        return Sublayers(attn=second, mlp=first)
    raise HostError(
        f"cannot tell attention from MLP in {type(call.layer).__name__}: "
        f"{'both' if all(mixes) else 'neither'} of the outputs it adds depend on earlier tokens"
    )


def _mixes_tokens(call: LayerCall, module: nn.Module, *, silenced: nn.Module) -> bool:
    """Whether the module's output for the last token changes when only the tokens before it are changed."""
    resid = call.resid_pre
    changed = resid + _noise_like(resid)
    changed[:, -1] = resid[:, -1]
    before, after = (_last_row_added(call, x, module, silenced) for x in (resid, changed))
    return bool((after - before).norm() > _MIXING_CHANGE * before.norm())


def _last_row_added(call: LayerCall, resid: Tensor, module: nn.Module, silenced: nn.Module) -> Tensor:
    rows: list[Tensor] = []

    def record(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        value = resid_out(output)
        assert value is not None
        rows.append(value.reshape(resid.shape)[0, -1].float())

    with module.register_forward_hook(record):
        call.run(resid, {silenced: torch.zeros_like(resid)})
    return rows[0]


def _noise_like(resid: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(resid.shape, generator=generator).to(resid)
    return noise * resid.float().std().to(resid.dtype)
