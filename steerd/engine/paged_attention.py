"""Attention of a packed step, request by request, over keys and values that lie where they were written.

The rows of a step belong to different requests; each may see the keys of its own request alone. Requests that
decode one row are handled together: those whose keys start at equal distances form one strided view, so one
call serves them with nothing copied. Keys of a request that do not lie in one piece are gathered first.

In a decode step that is to be recorded (`attend_decoding`) slices of the cache would become part of the
recording, so keys are gathered by tensors of places.

Shapes: q, k, v rows [rows, heads, head_dim]; the cache of a layer [tokens, kv_heads, head_dim].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from steerd.engine.decode_keys import DecodeKeys


@dataclass(frozen=True, slots=True)
class Segment:
    """The rows of one request in a step and where its keys are.

    `num_keys` counts the keys its last row sees. `start` is the first token of its keys in the cache when
    they lie in one piece, of which `reserved` tokens are its own; else `index` [num_keys] lists them.
    """

    first_row: int
    num_rows: int
    num_keys: int
    start: int | None
    reserved: int
    index: Tensor | None

    @property
    def keys(self) -> slice | Tensor:
        """What selects the request's keys from a layer's cache."""
        if self.start is None:
            assert self.index is not None
            return self.index
        return slice(self.start, self.start + self.num_keys)


@dataclass(frozen=True, slots=True)
class DecodeGroup:
    """Requests that decode one row each, whose keys start `stride` tokens apart from `start` on.

    rows [requests]; mask [requests, 1, 1, num_keys] is added to the scores, None when all see every key.
    """

    rows: Tensor
    start: int
    stride: int
    num_keys: int
    mask: Tensor | None


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """How the rows of one step attend: the same for every layer, made once before the forward.

    `in_order` says that one group has all rows, as they come.
    """

    segments: tuple[Segment, ...]
    groups: tuple[DecodeGroup, ...]
    singles: tuple[Segment, ...]
    in_order: bool


def plan_attention(segments: Sequence[Segment], dtype: torch.dtype, device: torch.device) -> AttentionPlan:
    """Group the decoding segments into strided views; the others attend one by one."""
    decoding = [s for s in segments if s.num_rows == 1 and s.start is not None]
    others = [s for s in segments if s.num_rows > 1 or s.start is None]
    decoding.sort(key=lambda segment: segment.start or 0)
    groups = [_decode_group(run, dtype, device) for run in _equally_spaced_runs(decoding)]
    return AttentionPlan(
        segments=tuple(segments),
        groups=tuple(groups),
        singles=tuple(others),
        in_order=len(groups) == 1 and decoding == list(segments),
    )


def attend(
    plan: AttentionPlan,
    query: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    *,
    scaling: float | None,
    softcap: float | None,
) -> Tensor:
    """What query [rows, heads, head_dim] attends to in the cache of one layer, of the same shape."""
    if plan.in_order and softcap is None:  # nothing to pick out or to put together
        return _attend_group(plan.groups[0], query, k_cache, v_cache, scaling)
    out = torch.empty_like(query)
    groups, singles = plan.groups, plan.singles
    if softcap is not None:
        groups, singles = (), plan.segments
    for group in groups:
        out[group.rows] = _attend_group(group, query[group.rows], k_cache, v_cache, scaling)
    for segment in singles:
        rows = slice(segment.first_row, segment.first_row + segment.num_rows)
        keys = segment.keys
        out[rows] = attend_one(
            query[rows], k_cache[keys], v_cache[keys], scaling=scaling, window=None, softcap=softcap
        )
    return out


def attend_decoding(
    keys: DecodeKeys,
    query: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    *,
    scaling: float | None,
    softcap: float | None,
) -> Tensor:
    """What query [rows, heads, head_dim] attends to, one row a request, by the numbers in `keys` alone."""
    num_rows, (_, kv_heads, head_dim) = len(query), k_cache.shape
    q = query.reshape(num_rows, kv_heads, -1, head_dim)  # as in _attend_group
    places = keys.places.flatten()
    k, v = (
        cache.index_select(0, places).view(num_rows, keys.width, kv_heads, head_dim).transpose(1, 2)
        for cache in (k_cache, v_cache)
    )
    if softcap is not None:
        out = _softcapped(q, k, v, keys.mask == 0, scaling, softcap)
    else:
        out = scaled_dot_product_attention(q, k, v, attn_mask=keys.mask, scale=scaling)
    return out.reshape(num_rows, -1, head_dim)


def _equally_spaced_runs(segments: Sequence[Segment]) -> list[list[Segment]]:
    """Cut segments, sorted by start, into runs of equal spacing in which nobody's view overlaps."""
    runs: list[list[Segment]] = []
    for segment in segments:
        run = runs[-1] if runs else []
        if run and _extends(run, segment):
            run.append(segment)
        else:
            runs.append([segment])
    return runs


def _extends(run: Sequence[Segment], segment: Segment) -> bool:
    """Every member's view is as long as the longest one's, so it has to lie within each one's own tokens."""
    assert segment.start is not None
    assert run[-1].start is not None
    members = [*run, segment]
    if max(s.num_keys for s in members) > min(s.reserved for s in members):
        return False
    if len(run) == 1:
        return True
    assert run[-2].start is not None
    return segment.start - run[-1].start == run[-1].start - run[-2].start


def _decode_group(run: Sequence[Segment], dtype: torch.dtype, device: torch.device) -> DecodeGroup:
    start = run[0].start
    assert start is not None
    stride = run[1].start - start if len(run) > 1 and run[1].start is not None else 0
    num_keys = [segment.num_keys for segment in run]
    longest = max(num_keys)
    mask = None
    if min(num_keys) < longest:
        seen = torch.arange(longest) < torch.tensor(num_keys).unsqueeze(1)  # [requests, num_keys]
        mask = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, float("-inf"))
        mask = mask.view(len(run), 1, 1, longest).to(device)
    rows = torch.tensor([segment.first_row for segment in run], device=device)
    return DecodeGroup(rows=rows, start=start, stride=stride, num_keys=longest, mask=mask)


def _attend_group(
    group: DecodeGroup, query: Tensor, k_cache: Tensor, v_cache: Tensor, scaling: float | None
) -> Tensor:
    """`query` has the rows of the group alone."""
    num_requests, (_, kv_heads, head_dim) = len(group.rows), k_cache.shape
    # The query heads that share a key head stand as its query positions: every key is read once for all of
    # them.
    q = query.reshape(num_requests, kv_heads, -1, head_dim)
    token, head, _ = k_cache.stride()
    size = (num_requests, kv_heads, group.num_keys, head_dim)
    stride = (group.stride * token, head, token, 1)
    k = k_cache.as_strided(size, stride, k_cache.storage_offset() + group.start * token)
    v = v_cache.as_strided(size, stride, v_cache.storage_offset() + group.start * token)
    out = scaled_dot_product_attention(q, k, v, attn_mask=group.mask, scale=scaling)
    return out.reshape(num_requests, -1, head_dim)


def attend_one(
    query: Tensor, k: Tensor, v: Tensor, *, scaling: float | None, window: int | None, softcap: float | None
) -> Tensor:
    """Attention of one request's last rows: query [rows, heads, head_dim] over k, v [num_keys, kv_heads,
    head_dim].

    The last row sees every key, each row before it one fewer; with a `window`, the last `window` of those.
    `softcap` bounds the scores as Gemma 2 does (softcap * tanh(score / softcap)).
    """
    num_rows, num_keys = len(query), len(k)
    whole_prompt = num_rows == num_keys > 1 and softcap is None and (window is None or num_keys <= window)
    mask = None if whole_prompt else _causal_mask(num_rows, num_keys, window, query.device)
    q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (query, k, v))  # [1, heads, tokens, head_dim]
    if softcap is not None:
        return _softcapped(q, k, v, mask, scaling, softcap).squeeze(0).transpose(0, 1)
    out = scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=whole_prompt, scale=scaling, enable_gqa=q.shape[1] != k.shape[1]
    )
    return out.squeeze(0).transpose(0, 1)


def _causal_mask(num_rows: int, num_keys: int, window: int | None, device: torch.device) -> Tensor | None:
    if num_rows == 1 and (window is None or num_keys <= window):
        return None
    last_seen = torch.arange(num_keys - num_rows, num_keys, device=device).unsqueeze(1)
    key = torch.arange(num_keys, device=device)
    mask = key <= last_seen  # [rows, num_keys]
    return mask if window is None else mask & (key > last_seen - window)


def _softcapped(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scaling: float | None, softcap: float
) -> Tensor:
    shared_by = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(shared_by, dim=1), v.repeat_interleave(shared_by, dim=1)
    scores = q @ k.transpose(2, 3) * (q.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = softcap * torch.tanh(scores / softcap)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return torch.softmax(scores.float(), dim=-1).to(q.dtype) @ v
