"""The language model being served, and the one seam into its forward: `HostModel.attach`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from steerd.errors import HostError
from steerd.host.hook_point import SITES, HookPoint
from steerd.host.loading import load_pretrained

Hook = Callable[[Tensor], Tensor | None]
"""Sees [rows, d_model], a view with batch and sequence flattened; returns its replacement, or None for none."""


class Handle(Protocol):
    """What `attach` returns: `remove()` takes the hook off again."""

    def remove(self) -> None: ...


class _EnoughComputed(Exception):  # noqa: N818  # not an error: ends a forward whose rest nobody needs
    pass


class HostModel:
    """A causal language model with named places (hook points) where its residual stream is read and edited."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str,
        folder: Path | None = None,
    ) -> None:
        """Take over a loaded model; `folder` is where its files are, if it came from disk."""
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.name = name
        self._folder = folder
        config = model.config.get_text_config(decoder=True)
        self.d_model: int = config.hidden_size
        self.num_layers: int = config.num_hidden_layers
        self.vocab_size: int = config.vocab_size
        self.max_context: int = _max_context(config, tokenizer)
        self._layers = _decoder_layers(model, self.num_layers)

    @classmethod
    def load(cls, name: str, *, dtype: str = "float32", device: str = "cpu") -> HostModel:
        """Load a host by alias, local folder or hub id. Raises HostError; never runs code from a model folder."""
        loaded = load_pretrained(name, dtype=dtype, device=device)
        return cls(loaded.model, loaded.tokenizer, name=name, folder=loaded.folder)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @property
    def has_chat_template(self) -> bool:
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
        return frozenset(i for i in [*ids, self.tokenizer.eos_token_id] if i is not None)

    @cached_property
    def content_hash(self) -> str:
        """16 hex digits that change when the config or the weights on disk change."""
        digest = hashlib.sha256()
        if self._folder is None:
            digest.update(self.model.config.to_json_string().encode())
        else:
            _update_from_folder(digest, self._folder)
        return digest.hexdigest()[:16]

    def attach(self, hook_point: HookPoint, hook: Hook) -> Handle:
        """Run `hook` at `hook_point` in every forward until the handle is removed.

        While it returns None the forward stays bit-identical. A replacement has the shape and dtype of what the
        hook saw; editing that tensor in place is not a way to edit. Raises HostError for an unknown hook point.
        """
        layer = self._layer(hook_point)
        if hook_point.site == "resid_pre":
            return layer.register_forward_pre_hook(partial(self._edit_input, hook), with_kwargs=True)
        if hook_point.site == "resid_post":
            return layer.register_forward_hook(partial(self._edit_output, hook))
        raise HostError(f"hook point {hook_point} is not available")

    def activations(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        hook_points: Sequence[HookPoint],
    ) -> dict[HookPoint, Tensor]:
        """What flows through the hook points for [batch, seq] ids, each [batch, seq, d_model], without gradient.

        The forward stops at the last hook point: deeper layers and the language-model head never run.
        """
        found: dict[HookPoint, Tensor] = {}

        def record(hook_point: HookPoint, rows: Tensor) -> None:
            found[hook_point] = rows.clone()  # later layers may reuse the memory
            if len(found) == len(wanted):
                raise _EnoughComputed

        wanted = frozenset(hook_points)
        handles = [self.attach(point, partial(record, point)) for point in wanted]
        try:
            with torch.no_grad():
                self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        except _EnoughComputed:
            pass
        finally:
            for handle in handles:
                handle.remove()
        shape = (*input_ids.shape, self.d_model)
        return {point: found[point].view(shape) for point in hook_points}

    def _layer(self, hook_point: HookPoint) -> nn.Module:
        if hook_point.site not in SITES or not 0 <= hook_point.layer < self.num_layers:
            raise HostError(
                f"host {self.name!r} has no hook point {hook_point}: "
                f"its layers are 0 to {self.num_layers - 1}, the sites {', '.join(SITES)}"
            )
        return self._layers[hook_point.layer]

    def _edit_input(self, hook: Hook, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        resid = args[0] if args else kwargs["hidden_states"]
        edited = self._edited(hook, resid)
        if edited is None:
            return None
        if args:
            return (edited, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": edited}

    def _edit_output(self, hook: Hook, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, Tensor):
            return self._edited(hook, output)
        edited = self._edited(hook, output[0])
        return None if edited is None else (edited, *output[1:])

    def _edited(self, hook: Hook, resid: Tensor) -> Tensor | None:
        rows = resid.reshape(-1, self.d_model)  # [rows, d_model]
        replacement = hook(rows)
        return None if replacement is None else replacement.view(resid.shape)


def _decoder_layers(model: PreTrainedModel, num_layers: int) -> nn.ModuleList:
    """The one ModuleList as long as the config says; raises HostError when there is none or more than one."""
    lists = {name: m for name, m in model.named_modules() if isinstance(m, nn.ModuleList)}
    fitting = {name: m for name, m in lists.items() if len(m) == num_layers}
    if len(fitting) != 1:
        seen = ", ".join(f"{name} ({len(m)})" for name, m in lists.items()) or "no module list at all"
        raise HostError(
            f"cannot tell the decoder layers of {type(model).__name__}: looked for exactly one module list "
            f"of num_hidden_layers = {num_layers} entries, found {len(fitting)} among {seen}"
        )
    return next(iter(fitting.values()))


def _max_context(config: Any, tokenizer: PreTrainedTokenizerBase) -> int:
    length = getattr(config, "max_position_embeddings", None) or tokenizer.model_max_length
    return int(length)


def _update_from_folder(digest: Any, folder: Path) -> None:
    """Hash the config whole and of each weights file its size and 64 evenly spaced blocks, which is quick."""
    digest.update((folder / "config.json").read_bytes())
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}".encode())
        with path.open("rb") as file:
            for i in range(64):
                file.seek(i * max(size - 65536, 0) // 63)
                digest.update(file.read(65536))
