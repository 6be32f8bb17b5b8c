"""Whether a host gives in packed steps what it gives in a plain forward: asked once, before it serves.

Attention is replaced, and what a host does besides (a cache of its own, a mask of its own, attention called
twice) can make the replacement wrong without any error. So it is tried: short texts, in chunks and side by
side, against each alone. Where steps are to be recorded that is tried in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

import torch
from torch import Tensor

from steerd.engine.batchable import GIB, bytes_per_token
from steerd.engine.continuous_batching import ContinuousBatch
from steerd.engine.recorded_steps import Recorder
from steerd.errors import HostError
from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel

# Tokens of each text, and how many of them are fed one by one as if they had been generated.
_LENGTHS = (14, 9)
_LENGTHS_IF_RECORDED = (14, 9, 11)  # then a step of three rows has one of nobody
_GENERATED = 3
_CHUNK = 8  # rows of a step
_PAGES, _PAGE_SIZE = 64, 8  # enough where layers of two kinds share the memory in large pieces

# Bounds of the relative error of rows after the last layer, which is near 1e-6 in float32 when all is well
# and above 0.1 in most rows when it is not. In 16 bits, where now and then another expert is chosen, the
# worst quarter of the rows does not count.
_LARGEST_ERROR = 0.01
_LARGEST_ERROR_IN_16_BITS = 0.1


def check_packed_steps(host: HostModel, recorder: Recorder | None = None) -> None:
    """Raise HostError when packed steps fail on this host or give other rows than a plain forward.

    With a recorder those of one row a text are recorded.
    """
    point = HookPoint(host.num_layers - 1, "resid_post")
    texts = _texts(host, _LENGTHS if recorder is None else _LENGTHS_IF_RECORDED)
    plain = {name: _plain_rows(host, point, ids) for name, ids in texts.items()}
    try:
        packed = _packed_rows(host, point, texts, recorder)
    except HostError:
        raise
    except Exception as error:
        raise HostError(
            f"host {host.name!r} ({type(host.model).__name__}) cannot be batched: "
            f"{type(error).__name__}: {error}"
        ) from error
    errors = torch.cat([_relative_errors(packed[name], plain[name]) for name in texts])
    if not _close_enough(errors, host.dtype):
        raise HostError(
            f"host {host.name!r} ({type(host.model).__name__}) gives other results in a batch than alone: "
            f"its residual stream is off by up to {float(errors.max()):.0%}"
        )


def _texts(host: HostModel, lengths: Sequence[int]) -> dict[str, list[int]]:
    ordinary = (i for i in range(host.vocab_size) if i not in host.special_token_ids)
    return {f"text-{number}": list(islice(ordinary, length)) for number, length in enumerate(lengths)}


def _plain_rows(host: HostModel, point: HookPoint, ids: list[int]) -> Tensor:
    return host.activations(torch.tensor([ids]), None, [point])[point][0]  # [tokens, d_model]


def _packed_rows(
    host: HostModel, point: HookPoint, texts: Mapping[str, list[int]], recorder: Recorder | None
) -> dict[str, Tensor]:
    """Rows [tokens, d_model] of each text at the hook point, run side by side in chunks."""
    generated = {name: iter(ids[-_GENERATED:]) for name, ids in texts.items()}
    batch = ContinuousBatch(
        host,
        lambda logits, names: _next_tokens(logits, names, generated),
        kv_cache_gib=_PAGES * _PAGE_SIZE * bytes_per_token(host) / GIB,
        max_batch_tokens=_CHUNK,
        max_running_requests=_CHUNK,
        page_size=_PAGE_SIZE,
        recorder=recorder,
    )
    for name, ids in texts.items():
        batch.admit(name, ids[:-_GENERATED], _GENERATED + 1)
        batch.begin(name)
    seen = torch.zeros(_CHUNK, host.d_model, dtype=host.dtype, device=host.device)

    def see(rows: Tensor) -> None:
        seen[: len(rows)].copy_(rows)  # to a place that stays, so that it can be recorded

    handle = host.attach(point, see)
    found: dict[str, list[Tensor]] = {name: [] for name in texts}
    try:
        while packed := batch.pack():
            with torch.inference_mode():
                batch.run()
            num_rows = [rows.num_rows for rows in packed]
            parts = torch.split(seen[: sum(num_rows)].clone(), num_rows)
            for rows, part in zip(packed, parts, strict=True):
                found[rows.request_id].append(part)
                if rows.first_position + rows.num_rows == len(texts[rows.request_id]):
                    batch.remove(rows.request_id)
    finally:
        handle.remove()
    if batch.why_not_recorded:
        raise HostError(batch.why_not_recorded)
    return {name: torch.cat(rows_found) for name, rows_found in found.items()}


def _next_tokens(
    logits: Tensor, names: Sequence[str], generated: Mapping[str, Iterator[int]]
) -> tuple[Tensor, Tensor]:
    """The next token of each text, whatever the logits; any token after its last."""
    token_ids = [next(generated[name], 0) for name in names]
    return torch.tensor(token_ids, device=logits.device), torch.zeros(len(names), device=logits.device)


def _relative_errors(got: Tensor, expected: Tensor) -> Tensor:
    errors: Tensor = (got.float() - expected.float()).norm(dim=-1) / expected.float().norm(dim=-1)  # [rows]
    return errors


def _close_enough(errors: Tensor, dtype: torch.dtype) -> bool:
    if dtype.itemsize > 2:
        return bool((errors <= _LARGEST_ERROR).all())
    return bool(errors.quantile(0.75) <= _LARGEST_ERROR_IN_16_BITS)
