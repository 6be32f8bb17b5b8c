"""The language model being served, and the one seam into its forward: `HostModel.attach`."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from steerd.errors import HostError
from steerd.host.decoder_layers import find_decoder_layers, record_layer_calls
from steerd.host.hook_point import SITES, HookPoint
from steerd.host.int8_head import Int8Linear
from steerd.host.loading import load_pretrained, update_from_folder
from steerd.host.residual_stream import Args, Kwargs, resid_in, resid_out, with_resid_in, with_resid_out
from steerd.host.skipped_layers import can_skip, layers_returning
from steerd.host.sublayers import Sublayers, find_sublayers
from steerd.host.unembedding import unembedded

Hook = Callable[[Tensor], Tensor | None]
"""Sees [rows, d_model], batch and sequence flattened; returns a replacement of that shape, or None."""

_PROBE_TOKENS = 8


class Handle(Protocol):
    """What `attach` returns: `remove()` takes the hook off again."""

    def remove(self) -> None: ...


class _EnoughComputed(Exception):  # no error: ends a forward whose rest nobody needs
    pass


class HostModel:
    """A causal language model with named places (hook points) where its residual stream is read and edited.

    Not thread-safe: one thread at a time runs forwards and attaches hooks.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str,
        folder: Path | None = None,
        weights: str = "as_loaded",
    ) -> None:
        """Take over a loaded model; `folder` is where its files are, if it came from disk, and `weights` how
        these are held.

        Raises HostError when its decoder layers and the residual stream through them cannot be told for sure.
        """
        self.model = model.requires_grad_(False)
        self.model.train(False)
        self.tokenizer = tokenizer
        self.name = name
        self._folder = folder
        self._weights = weights
        config = model.config.get_text_config(decoder=True)
        self.d_model: int = config.hidden_size
        self.num_layers: int = config.num_hidden_layers
        self.vocab_size: int = config.vocab_size
        self.max_context: int = _max_context(config, tokenizer)
        self._own_attention = model.config._attn_implementation
        self._layers = find_decoder_layers(model, self.num_layers)
        self._layer_calls = record_layer_calls(model, self._layers, self._probe_ids(), self.d_model)
        self._sublayers: dict[int, Sublayers] = {}
        self._resumes: dict[int, bool] = {}
        self._hooks_off = False

    @classmethod
    def load(
        cls, name: str, *, dtype: str = "float32", device: str = "cpu", weights: str = "as_loaded"
    ) -> HostModel:
        """Load by alias, local folder or hub id. Raises HostError; never runs code from a model's folder."""
        loaded = load_pretrained(name, dtype=dtype, device=device, weights=weights)
        return cls(loaded.model, loaded.tokenizer, name=name, folder=loaded.folder, weights=weights)

    @property
    def device(self) -> torch.device:
        """Where the host's weights are; ids for its forward belong there."""
        device: torch.device = self.model.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the host's weights and residual stream."""
        dtype: torch.dtype = self.model.dtype
        return dtype

    @property
    def has_gradients(self) -> bool:
        """Whether logits are differentiable in the residual stream; with weights in 8 bits they are not."""
        return not any(isinstance(module, Int8Linear) for module in self.model.modules())

    @property
    def has_chat_template(self) -> bool:
        """Whether chats can be encoded for this host."""
        return bool(self.tokenizer.chat_template)

    @cached_property
    def special_token_ids(self) -> frozenset[int]:
        """Ids that stand for no text: chat markers, begin and end of text, padding."""
        added = self.tokenizer.added_tokens_decoder
        return frozenset(self.tokenizer.all_special_ids) | {i for i, token in added.items() if token.special}

    @cached_property
    def eos_token_ids(self) -> frozenset[int]:
        """Ids that end a generation, by the generation config and the tokenizer."""
        generation_config = self.model.generation_config
        configured = generation_config.eos_token_id if generation_config else None
        ids = configured if isinstance(configured, list) else [configured]
        return frozenset(i for i in (*ids, self.tokenizer.eos_token_id) if i is not None)

    @cached_property
    def content_hash(self) -> str:
        """16 hex digits that change with the config, with how the weights are held, and with the weights when
        the host came from disk."""
        digest = hashlib.sha256()
        if self._weights != "as_loaded":
            digest.update(self._weights.encode())
        if self._folder is None:
            digest.update(self.model.config.to_json_string().encode())
        else:
            update_from_folder(digest, self._folder)
        return digest.hexdigest()[:16]

    def hook_points(self) -> tuple[HookPoint, ...]:
        """All hook points of this host, in layer order; trying all layers takes about ten short forwards."""
        points = (HookPoint(layer, site) for layer in range(self.num_layers) for site in SITES)
        return tuple(point for point in points if self._has(point))

    def check_hook_point(self, hook_point: HookPoint) -> None:
        """Raise HostError, saying what was looked for and found, when the host has no such hook point."""
        if hook_point.site not in SITES or not 0 <= hook_point.layer < self.num_layers:
            raise HostError(
                f"host {self.name!r} has no hook point {hook_point}: "
                f"its layers are 0 to {self.num_layers - 1}, the sites {', '.join(SITES)}"
            )
        if hook_point.site in ("attn_out", "mlp_out"):
            self._sublayers_of(hook_point.layer)

    def attach(self, hook_point: HookPoint, hook: Hook, *, first: bool = False) -> Handle:
        """Run `hook` at `hook_point` in every forward until the handle is removed.

        While it returns None the forward stays bit-identical. Several hooks of one hook point run in the
        order in which they were attached, or before all of these with `first`, each on what the one before
        left. Never edit the tensor in place. Raises HostError for a hook point that the host does not have.
        """
        self.check_hook_point(hook_point)
        module: nn.Module = self._layers[hook_point.layer]
        match hook_point.site:
            case "resid_pre":
                edit_input = partial(self._edit_input, hook)
                return module.register_forward_pre_hook(edit_input, with_kwargs=True, prepend=first)
            case "attn_out":
                module = self._sublayers_of(hook_point.layer).attn
            case "mlp_out":
                module = self._sublayers_of(hook_point.layer).mlp
        return module.register_forward_hook(partial(self._edit_output, hook), prepend=first)

    def activations(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        hook_points: Sequence[HookPoint],
    ) -> dict[HookPoint, Tensor]:
        """What flows through the hook points for [batch, seq] ids, each [batch, seq, d_model], no gradient.

        The forward stops at the last hook point: deeper layers and the language-model head never run.
        `attention_mask` is [batch, seq] with 0 for padding (on the right), None when there is none; what is
        returned for padding means nothing.
        """
        found: dict[HookPoint, Tensor] = {}
        wanted = frozenset(hook_points)

        def record(hook_point: HookPoint, rows: Tensor) -> None:
            found[hook_point] = rows.clone()  # the host may reuse the memory
            if len(found) == len(wanted):
                raise _EnoughComputed

        handles = [self.attach(point, partial(record, point)) for point in wanted]
        try:
            if wanted:
                self._run_to_end_or_enough(input_ids, attention_mask)
        finally:
            for handle in handles:
                handle.remove()
        return {point: found[point].view(*input_ids.shape, self.d_model) for point in hook_points}

    def run(self, input_ids: Tensor, attention_mask: Tensor | None, *, until: HookPoint) -> None:
        """Run a forward for the sake of its hooks, no gradient; it ends when those of `until` have run."""

        def end(_rows: Tensor) -> None:
            raise _EnoughComputed

        handle = self.attach(until, end)
        try:
            self._run_to_end_or_enough(input_ids, attention_mask)
        finally:
            handle.remove()

    @torch.no_grad()
    def unembed(self, rows: Tensor) -> Tensor:
        """The logits [rows, vocab], float32, that the host would make of rows [rows, d_model] if these left
        its last layer: no hook runs."""
        with self._plain_attention(), self._without_hooks():
            return unembedded(self.model, self._layer_calls, rows)

    def logits(self, input_ids: Tensor, attention_mask: Tensor | None, *, last: int = 0) -> Tensor:
        """Logits [batch, seq, vocab] of [batch, seq] ids by a plain forward, without any cache.

        With `last` only those of so many last positions. Padding is as in `activations`. Hooks run, and
        gradients flow from what they put in where the caller has enabled them.
        """
        mask = None if attention_mask is None else attention_mask.to(self.device)
        kept = {"logits_to_keep": last} if last and self._may_keep_last else {}
        with self._plain_attention():
            output = self.model(
                input_ids=input_ids.to(self.device), attention_mask=mask, use_cache=False, **kept
            )
        logits: Tensor = output.logits
        return logits[:, -last:]

    def resumes_after(self, layer: int) -> bool:
        """Whether forwards can begin after a layer, as what left it is all that the later ones need."""
        if layer not in self._resumes:
            with self._plain_attention(), self._without_hooks():
                first = self._layer_calls[: layer + 1]
                self._resumes[layer] = can_skip(self.model, first, self._probe_ids())
        return self._resumes[layer]

    @contextmanager
    def resumed(self, layer: int, resid: Tensor) -> Iterator[None]:
        """Inside the block forwards begin after a layer that `resumes_after` allows, with what left it.

        `resid` is [batch, seq, d_model], of the ids that the forwards are given. Hooks between the layers up
        to there see it too, those inside of them do not run.
        """
        with layers_returning(resid, self._layer_calls[: layer + 1]):
            yield

    def _run_to_end_or_enough(self, input_ids: Tensor, attention_mask: Tensor | None) -> None:
        with torch.no_grad(), suppress(_EnoughComputed):
            self.logits(input_ids, attention_mask)

    @cached_property
    def _may_keep_last(self) -> bool:
        return "logits_to_keep" in inspect.signature(self.model.forward).parameters

    def _probe_ids(self) -> Tensor:
        ordinary = (i for i in range(self.vocab_size) if i not in self.special_token_ids)
        ids = [token_id for token_id, _ in zip(ordinary, range(_PROBE_TOKENS), strict=False)]
        return torch.tensor([ids], device=self.device)

    def _has(self, hook_point: HookPoint) -> bool:
        try:
            self.check_hook_point(hook_point)
        except HostError:
            return False
        return True

    def _sublayers_of(self, layer: int) -> Sublayers:
        if layer not in self._sublayers:
            elsewhere = {
                id(m) for other in self._layers if other is not self._layers[layer] for m in other.modules()
            }
            with self._plain_attention(), self._without_hooks():
                self._sublayers[layer] = find_sublayers(
                    self._layer_calls[layer], may_use=lambda module: id(module) not in elsewhere
                )
        return self._sublayers[layer]

    @contextmanager
    def _without_hooks(self) -> Iterator[None]:
        self._hooks_off = True
        try:
            yield
        finally:
            self._hooks_off = False

    @contextmanager
    def _plain_attention(self) -> Iterator[None]:
        """Continuous batching may have put in an attention that only works with its own paged cache."""
        installed = self.model.config._attn_implementation
        if installed == self._own_attention:
            yield
            return
        self.model.set_attn_implementation(self._own_attention)
        try:
            yield
        finally:
            self.model.set_attn_implementation(installed)

    def _edit_input(self, hook: Hook, _layer: nn.Module, args: Args, kwargs: Kwargs) -> Any:
        resid = resid_in(args, kwargs)
        edited = self._edited(hook, resid)
        return None if edited is None else with_resid_in(edited, args, kwargs)

    def _edit_output(self, hook: Hook, _module: nn.Module, _args: Args, output: Any) -> Any:
        edited = self._edited(hook, resid_out(output))
        return None if edited is None else with_resid_out(edited, output)

    def _edited(self, hook: Hook, resid: Tensor | None) -> Tensor | None:
        if self._hooks_off:
            return None
        assert resid is not None  # the layers' form was checked at load
        replacement = hook(resid.reshape(-1, self.d_model))  # [rows, d_model]
        if replacement is None:
            return None
        assert replacement.dtype == resid.dtype
        return replacement.reshape(resid.shape)


def _max_context(config: Any, tokenizer: PreTrainedTokenizerBase) -> int:
    return int(getattr(config, "max_position_embeddings", None) or tokenizer.model_max_length)
