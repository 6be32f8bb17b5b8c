"""The decoder layers of a host: which modules they are, and how the host calls them.

No table of architectures: the layers are the one module list as long as the config says, and a short forward
shows that the residual stream runs through them, each layer's output being the next one's input.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from steerd.errors import HostError
from steerd.host.residual_stream import carries, resid_in, resid_out, with_resid_in, with_resid_out


@dataclass(frozen=True, slots=True)
class LayerCall:
    """One layer with the arguments of one real call, so that the layer can be run again on its own.

    `output` is what it returned then, in whatever form.
    """

    layer: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    resid_pre: Tensor  # [1, tokens, d_model]
    output: Any

    def run(self, resid_pre: Tensor, outputs: Mapping[nn.Module, Tensor] | None = None) -> Tensor:
        """The layer's output [1, tokens, d_model] for another input, submodules made to return `outputs`."""
        args, kwargs = with_resid_in(resid_pre.clone(), self.args, self.kwargs)
        with ExitStack() as hooks, torch.no_grad():
            for module, output in (outputs or {}).items():
                hooks.enter_context(_returning(module, output))
            resid_post = resid_out(self.layer(*args, **kwargs))
        assert resid_post is not None  # it was checked when the call was recorded
        return resid_post


@contextmanager
def _returning(module: nn.Module, resid: Tensor) -> Iterator[None]:
    def replace(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        own = resid_out(output)
        assert own is not None
        return with_resid_out(resid.clone().view(own.shape), output)

    with module.register_forward_hook(replace):
        yield


def find_decoder_layers(model: PreTrainedModel, num_layers: int) -> nn.ModuleList:
    """The one module list of `num_layers` entries, not counting lists inside it.

    Raises HostError when there is none, more than one, or when its entries share weights.
    """
    lists = {name: m for name, m in model.named_modules() if isinstance(m, nn.ModuleList)}
    fitting = [name for name, m in lists.items() if len(m) == num_layers]
    outermost = [name for name in fitting if not any(name.startswith(f"{other}.") for other in fitting)]
    if len(outermost) != 1:
        seen = ", ".join(f"{name} ({len(m)})" for name, m in lists.items()) or "no module list at all"
        raise HostError(
            f"cannot tell the decoder layers of {type(model).__name__}: looked for exactly one module list "
            f"of num_hidden_layers = {num_layers} entries, found {len(outermost)} among {seen}"
        )
    layers = lists[outermost[0]]
    if len({id(layer) for layer in layers}) != num_layers:
        raise HostError(
            f"{type(model).__name__} uses one layer several times, so its layers have no hook points"
        )
    return layers


def record_layer_calls(
    model: PreTrainedModel, layers: nn.ModuleList, input_ids: Tensor, d_model: int
) -> list[LayerCall]:
    """Run [1, tokens] ids once and keep each layer's call.

    Raises HostError unless every layer takes and returns one residual stream, the next one taking it over.
    """
    calls: list[LayerCall] = []
    outputs: list[Tensor | None] = []

    def record(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        resid_pre = resid_in(args, kwargs)
        outputs.append(resid_out(output))
        if resid_pre is not None and carries(resid_pre, d_model) and carries(outputs[-1], d_model):
            calls.append(LayerCall(layer, args, kwargs, resid_pre, output))

    with ExitStack() as hooks, torch.no_grad():
        for layer in layers:
            hooks.enter_context(layer.register_forward_hook(record, with_kwargs=True))
        model(input_ids=input_ids, attention_mask=torch.ones_like(input_ids), use_cache=False)
    _check_stream(model, layers, calls, outputs, d_model)
    return calls


def _check_stream(
    model: PreTrainedModel,
    layers: nn.ModuleList,
    calls: Sequence[LayerCall],
    outputs: Sequence[Tensor | None],
    d_model: int,
) -> None:
    name = type(model).__name__
    if [call.layer for call in calls] != list(layers):
        raise HostError(
            f"{name} has {len(layers)} decoder layers, but a forward called {len(outputs)} of them, "
            f"{len(calls)} with a residual stream [batch, seq, {d_model}] in and out"
        )
    for i in range(1, len(calls)):
        previous = outputs[i - 1]
        if previous is None or not torch.equal(previous, calls[i].resid_pre):
            raise HostError(
                f"{name}: layer {i} does not take what layer {i - 1} returns: no residual stream found"
            )
