"""Keys and values of running requests, each request's in one piece where memory allows.

transformers' paged cache keeps the pages of all layers of a block side by side, so that a request's keys have
to be copied out at every layer of every step. Here the tokens of a layer lie side by side, and a request is
given all the blocks it can ever need when it is admitted, consecutive ones if there are any: its keys are
then a view. So pages that several prompts have in common are copied, not shared: nobody else's end or edits
can touch the memory of a request.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor
from transformers.generation.continuous_batching.cache import PagedAttentionCache
from transformers.generation.continuous_batching.cache_allocators.full_attention import (
    FullAttentionCacheAllocator,
)
from transformers.generation.continuous_batching.model_runner import infer_max_single_request_tokens
from transformers.generation.continuous_batching.requests import FutureRequestState, RequestState

from steerd.engine.decode_keys import DecodeKeys
from steerd.engine.paged_attention import (
    AttentionPlan,
    Segment,
    attend,
    attend_decoding,
    attend_one,
    plan_attention,
)
from steerd.engine.prefix_pages import PrefixPages, PromptPages

FULL = FullAttentionCacheAllocator.layer_type


class KvCache(PagedAttentionCache):
    """The paged cache of transformers with memory laid out by layer, reservations, and our attention.

    Hosts with sliding-window layers keep transformers' layout: their keys are copied out, window by window.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        only_full = set(self.cache_allocators) == {FULL}
        self._in_pieces = only_full and self.cache_allocators[FULL].blocks_per_sector == 1
        self._plan: AttentionPlan | None = None
        self._decoding: DecodeKeys | None = None  # of a step that is laid out to be recorded
        self._copied_bounds: dict[str, list[tuple[slice, slice]]] = {}
        self._pages = PrefixPages()
        if self._in_pieces:
            self._lay_out_by_layer(self.cache_allocators[FULL])
            # Of the two blocks that are no request's, transformers writes to the second only.
            self.keys = DecodeKeys(
                page=self._full.tokens_per_page,
                zeros=0,
                nobody=1,
                dtype=self.dtype,
                device=self.cache_tensor.device,
            )
        # Layers of several kinds share the memory in pieces too large for some of them, so it is tried out.
        self.num_tokens: int = infer_max_single_request_tokens(self)
        """How many tokens of one request fit when nothing runs."""

    @property
    def total_bytes(self) -> int:
        """Memory for keys and values."""
        return int(self.num_sectors * self.bytes_per_sector)

    @property
    def used_bytes(self) -> int:
        """Memory that running requests hold."""
        return self.total_bytes - int(self.compute_free_capacity(relative=False))

    @property
    def why_copied(self) -> str:
        """What keeps keys from being read where they lie; empty when nothing does.

        Where they are copied, prompts do not take over each other's pages, and steps cannot be recorded.
        """
        if set(self.cache_allocators) != {FULL}:
            return "sliding-window layers"
        return "" if self._in_pieces else "pages whose size is no multiple of 128 bytes"

    def reserve(self, state: RequestState, num_tokens: int) -> bool:
        """Give a new request room for `num_tokens` tokens; False when that much is not free now.

        `begin` must follow before its first step.
        """
        self.pool.try_to_free_sectors()
        if self._in_pieces:
            size = -(-num_tokens // self._full.tokens_per_page)
            _bring_piece_forward(self.pool.free_sectors, size, self._pages)
        return bool(self.can_store_request_tokens(state, num_tokens))

    def begin(self, request_id: str, pages: PromptPages) -> int:
        """Fill the memory of a request: the first pages of its prompt, as far as they are known, then zeros.

        Returns how many tokens those pages hold. Nothing is taken over where `why_copied` has a reason.
        """
        if not self._in_pieces:
            return 0
        page, own = self._full.tokens_per_page, self._full.block_table[request_id]
        hashes = pages.hashes[: pages.takeable // page]
        # Copied out before its own blocks are cleared, which may be among those where they lie.
        found = self._by_layer[:, :, self._tokens_of(self._pages.find(hashes))]
        num_found = found.shape[2]
        self._pages.forget(own)
        own_tokens = self._tokens_of(own)
        # A view may reach past the keys written so far. What lies there is weighted with zero, so it must be
        # finite, whatever an earlier request left.
        self._by_layer.index_fill_(2, own_tokens[num_found:], 0)
        self._by_layer.index_copy_(2, own_tokens[:num_found], found)
        self.keep_pages(request_id, pages.hashes, num_found)
        return num_found

    def keep_pages(self, request_id: str, hashes: Sequence[bytes], num_tokens: int) -> None:
        """Let other requests find the pages of a prompt that its first `num_tokens` tokens fill."""
        num_pages = min(num_tokens // self._full.tokens_per_page, len(hashes))
        self._pages.keep(self._full.block_table[request_id][:num_pages], hashes[:num_pages])

    def extend_read_and_write_indices(
        self,
        request_id: str,
        past_length: int,
        query_length: int,
        read_index: list[list[int]] | None,
        write_index: list[list[int]],
    ) -> None:
        """As transformers', but keys that are read where they lie need no list of all their places."""
        wanted = None if self._in_pieces else read_index
        super().extend_read_and_write_indices(request_id, past_length, query_length, wanted, write_index)

    def fill_block_table(self, *_: Any) -> None:
        """Nothing: `plan_decoding` lays out such a step as a whole."""

    def plan_decoding(self, requests: Sequence[FutureRequestState], num_rows: int) -> None:
        """Work out how the rows of a step to be recorded attend: one a request, then those of nobody."""
        blocks = [self._full.block_table[request.state.request_id] for request in requests]
        self.keys.plan(blocks, [request.state.position_offset for request in requests], num_rows)
        self._decoding = self.keys

    def plan_step(self, requests: Sequence[FutureRequestState]) -> None:
        """Work out how the rows of the coming step attend."""
        self._decoding = None
        if self._in_pieces:
            first_rows = _starts([request.query_length for request in requests])
            segments = [self._segment(*pair) for pair in zip(requests, first_rows, strict=True)]
            self._plan = plan_attention(segments, self.dtype, self.cache_tensor.device)
            return
        for name, allocator in self.cache_allocators.items():
            num_rows = [request.query_length for request in requests]
            num_keys = [
                allocator.get_seqlen_k(
                    request.state.position_offset - request.query_length, request.query_length
                )
                for request in requests
            ]
            self._copied_bounds[name] = list(zip(_slices(num_rows), _slices(num_keys), strict=True))

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scaling: float | None,
        kwargs: dict[str, Any],
    ) -> Tensor:
        """Store the keys and values of a step and attend.

        query, key, value are [1, heads, rows, head_dim] as the host makes them; returns [1, rows, heads,
        head_dim].
        """
        query, key, value = (
            x.squeeze(0).transpose(0, 1) for x in (query, key, value)
        )  # [rows, heads, head_dim]
        allocator, softcap = self.layer_to_allocator[layer], kwargs.get("softcap")
        if self._decoding is not None:
            k_cache, v_cache = self._full._kv_token_views[layer]
            k_cache.index_copy_(0, self._decoding.write, key)
            v_cache.index_copy_(0, self._decoding.write, value)
            return attend_decoding(
                self._decoding, query, k_cache, v_cache, scaling=scaling, softcap=softcap
            ).unsqueeze(0)
        write_index = kwargs["write_index"][allocator.index]
        if self._in_pieces:
            assert self._plan is not None
            k_cache, v_cache = self._full._kv_token_views[layer]
            k_cache.index_copy_(0, write_index, key)
            v_cache.index_copy_(0, write_index, value)
            return attend(self._plan, query, k_cache, v_cache, scaling=scaling, softcap=softcap).unsqueeze(0)
        read_index = kwargs["read_index"][allocator.index]
        k, v = allocator.update(key, value, layer, read_index, write_index)
        window = getattr(allocator, "sliding_window", None)
        parts = [
            attend_one(query[rows], k[keys], v[keys], scaling=scaling, window=window, softcap=softcap)
            for rows, keys in self._copied_bounds[allocator.layer_type]
        ]
        return torch.cat(parts).unsqueeze(0)

    def _lay_out_by_layer(self, allocator: Any) -> None:
        self._full = allocator
        page = allocator.tokens_per_page
        num_tokens = self.cache_tensor.numel() // allocator.bytes_per_block * page
        shape = (
            len(allocator.layer_indices),
            2,
            num_tokens,
            allocator.num_key_value_heads,
            allocator.head_dim,
        )
        self._by_layer = self.cache_tensor.view(self.dtype)[: torch.Size(shape).numel()].view(shape)
        allocator._kv_token_views = {
            layer: (self._by_layer[i, 0], self._by_layer[i, 1])
            for i, layer in enumerate(allocator.layer_indices)
        }
        allocator.block_physical_stride = page

    def _tokens_of(self, blocks: Sequence[int]) -> Tensor:
        """Where the tokens of these blocks lie in a layer, [blocks * page]."""
        page, device = self._full.tokens_per_page, self.cache_tensor.device
        first = torch.tensor(blocks, dtype=torch.long, device=device).unsqueeze(1) * page
        tokens: Tensor = first + torch.arange(page, device=device)  # [blocks, page]
        return tokens.flatten()

    def _segment(self, request: FutureRequestState, first_row: int) -> Segment:
        page, state = self._full.tokens_per_page, request.state
        blocks = self._full.block_table[state.request_id]
        num_keys = state.position_offset  # the rows of this step are already counted
        in_one_piece = blocks[-1] - blocks[0] == len(blocks) - 1 and blocks == sorted(blocks)
        index = None
        if not in_one_piece:
            past = num_keys - request.query_length
            index = torch.tensor(self._full.get_read_indices(state.request_id, past, request.query_length))
        return Segment(
            first_row=first_row,
            num_rows=request.query_length,
            num_keys=num_keys,
            start=blocks[0] * page if in_one_piece else None,
            reserved=len(blocks) * page,
            index=index,
        )


def _bring_piece_forward(free: list[int], size: int, pages: PrefixPages) -> None:
    """Order the list of free blocks, which are taken from its end, so that the next `size` are consecutive.

    Takes those whose pages have been of no use for longest, in the smallest piece that is large enough, to
    keep large ones whole; without one, the order is by number.
    """
    free.sort(reverse=True)
    if not 0 < size <= len(free):
        return
    blocks = np.array(free[::-1])
    piece_of = np.cumsum(np.diff(blocks, prepend=blocks[0]) != 1)  # [blocks], the number of its piece
    starts = np.flatnonzero(blocks[size - 1 :] - blocks[: len(blocks) - size + 1] == size - 1)
    if len(starts) == 0:
        return
    used_at = sliding_window_view(np.array(pages.used_at(blocks.tolist())), size).max(axis=1)[starts]
    piece_size = np.bincount(piece_of)[piece_of[starts]]
    start = starts[np.lexsort((starts, piece_size, used_at))[0]]
    taken = blocks[start : start + size]
    rest = np.concatenate([blocks[:start], blocks[start + size :]])
    free[:] = [*rest[::-1].tolist(), *taken[::-1].tolist()]


def _starts(lengths: Sequence[int]) -> list[int]:
    return [bounds.start for bounds in _slices(lengths)]


def _slices(lengths: Sequence[int]) -> list[slice]:
    slices, start = [], 0
    for length in lengths:
        slices.append(slice(start, start + length))
        start += length
    return slices
