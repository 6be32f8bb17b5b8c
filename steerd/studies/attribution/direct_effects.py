"""What is added to the last row reaches the logits past all layers: how a metric feels that."""

from __future__ import annotations

import torch
from torch import Tensor

from steerd.errors import FieldViolation, InvalidRequest
from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel
from steerd.studies.attribution.gradients import RowGradients, differentiable
from steerd.studies.attribution.scored_prompt import ScoredPrompt

_SAME = 1e-3  # relative difference of logits that rounding may make


def after_last_layer(host: HostModel) -> HookPoint:
    """Where the stream leaves the layers; the final norm and the head follow."""
    return HookPoint(host.num_layers - 1, "resid_post")


def direct_gradient(prompt: ScoredPrompt, found: RowGradients) -> Tensor:
    """The metric's gradient in what is added to the stream [tokens, d_model], no layer in between.

    This is direct logit attribution (nostalgebraist's logit lens; Wang et al., arXiv 2211.00593): d times the
    head's weights after the final norm, the norm's scale held as it is. Only the prompt's last row has one;
    of an answer only the first token is felt. A soft cap of the logits, or the softmax of log-probabilities,
    enters by its slope. `found` must hold `after_last_layer`. Raises InvalidRequest for a host without a
    final norm.
    """
    host, point = prompt.host, after_last_layer(prompt.host)
    last = len(prompt.prompt_ids) - 1
    x = found.rows[point][last]
    gradient = torch.zeros_like(found.rows[point])
    # The true gradient knows that the norm's scale grows with the row; along the row it is zero. With the
    # scale held, the logits change along the row by all that is above the logits of an empty row.
    grown = (_slopes(prompt, found) * _above_empty(host, x)).sum()
    along = x - x.mean() if _is_centred(host, x) else x
    gradient[last] = found.gradients[point][0, last] + along * grown / along.square().sum()
    return gradient


def _slopes(prompt: ScoredPrompt, found: RowGradients) -> Tensor:
    """The metric's gradient in the logits of the prompt's last row, all texts together: [vocab]."""
    with differentiable():
        logits = found.logits[:1].clone().requires_grad_()
        (slopes,) = torch.autograd.grad(prompt.values_of(logits).sum(), logits)
    return slopes[0, :, 0].sum(dim=0)


def _above_empty(host: HostModel, x: Tensor) -> Tensor:
    """How much each logit would change if all of row x [d_model] went and the norm's scale stayed: [vocab].

    Behind a soft cap, times the cap's slope.
    """
    twice, logits, empty = host.unembed(torch.stack([2 * x, x, torch.zeros_like(x)])).unbind()
    if not _same(twice, logits):
        problem = f"direct needs a norm after the layers, and {host.name!r} has none"
        raise InvalidRequest([FieldViolation("method", problem)])
    config = host.model.config.get_text_config(decoder=True)
    cap: float | None = getattr(config, "final_logit_softcapping", None)
    if cap is None:
        return logits - empty
    return cap * ((logits / cap).atanh() - (empty / cap).atanh()) * (1 - (logits / cap).square())


def _is_centred(host: HostModel, x: Tensor) -> bool:
    """Whether the final norm takes the mean off, as LayerNorm does and RMSNorm does not."""
    shifted, logits = host.unembed(torch.stack([x + x.abs().mean(), x])).unbind()
    return _same(shifted, logits)


def _same(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).norm() <= _SAME * other.norm())
