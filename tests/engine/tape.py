"""Stands in for a CUDA graph: the tensor operations of a forward, run again on the very same tensors.

As a graph does it knows no Python: numbers and branches are as they were when it was recorded, and so are the
places of all tensors. Recording leaves no trace, and what a device would have to wait for is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

TELLS_A_NUMBER = ("_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select")
MADE_OF_NUMBERS = ("lift_fresh", "tensor")


class Tape(TorchDispatchMode):
    """Records inside the block; `restore` undoes what that did, `replay` does it again.

    Raises RuntimeError for what tells Python a number, depends on one, or makes a tensor of one.
    """

    def __init__(self) -> None:
        super().__init__()
        self._done: list[tuple[Any, Sequence[Any], Mapping[str, Any], Any]] = []
        self._made: set[int] = set()  # storages that are its own
        self._before: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        if name in (*TELLS_A_NUMBER, *MADE_OF_NUMBERS) or (name.startswith("index") and _has_bools(args)):
            raise RuntimeError(f"{func} cannot be recorded")
        self._save(func, args, kwargs)
        out = func(*args, **kwargs)
        self._made |= set(map(_storage, tensors(out))) - set(map(_storage, tensors((args, kwargs))))
        self._done.append((func, args, kwargs, out))
        return out

    def restore(self) -> None:
        """Leave what was there before as it was."""
        for now, before in self._before.values():
            now.copy_(before)

    def replay(self) -> None:
        """Do it again, and leave every result where it was then."""
        for func, args, kwargs, out in self._done:
            results = tensors(func(*args, **kwargs))
            known = set(map(_storage, tensors((args, kwargs))))
            for before, result in zip(tensors(out), results, strict=True):
                if _storage(before) not in known:
                    before.copy_(result)

    def _save(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if argument.is_write:
                self._keep(value)
        for argument in func._schema.arguments[len(args) :]:
            if argument.is_write and argument.name in kwargs:
                self._keep(kwargs[argument.name])

    def _keep(self, value: Any) -> None:
        for tensor in tensors(value):
            if _storage(tensor) not in self._made:
                whole = tensor.untyped_storage()
                self._before.setdefault(_storage(tensor), (whole, whole.clone()))


class TapeRecorder:
    """Counts what it recorded, and what was replayed. `refuses` makes every recording fail."""

    def __init__(self, *, refuses: bool = False) -> None:
        self.recorded = 0
        self.replayed = 0
        self._refuses = refuses

    def record(self, forward: Callable[[], None]) -> Callable[[], None]:
        if self._refuses:
            raise RuntimeError("no tape")
        tape = Tape()
        with tape:
            forward()
        tape.restore()
        self.recorded += 1
        return lambda: self._replay(tape)

    def _replay(self, tape: Tape) -> None:
        self.replayed += 1
        tape.replay()


def tensors(values: Any) -> list[Tensor]:
    """All that are somewhere in these."""
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _has_bools(args: Sequence[Any]) -> bool:
    return any(tensor.dtype is torch.bool for tensor in tensors(args[1]))
