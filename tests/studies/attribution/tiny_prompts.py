"""Prompts, SAEs and naive forwards for attribution on tiny hosts."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel
from steerd.steering.loaded_saes import LoadedSae, LoadedSaes
from tests.tiny_saes import tiny_sae

RowEdit = Callable[[Tensor], Tensor]  # [tokens, d_model] -> the same


def random_ids(seed: int, length: int = 7) -> tuple[int, ...]:
    """Ordinary bytes."""
    return tuple(random.Random(seed).choices(range(32, 127), k=length))


def loaded(
    host: HostModel, *hook_points: str, d_sae: int = 24, activation: str = "jumprelu"
) -> list[LoadedSae]:
    """A random SAE at each hook point."""
    saes = LoadedSaes(host)
    for seed, hook_point in enumerate(hook_points):
        saes.add(f"sae-{seed}", tiny_sae(host, hook_point, seed, d_sae, activation))  # type: ignore[arg-type]
    return list(saes)


def naive_logits(host: HostModel, ids: tuple[int, ...], edits: Mapping[str, RowEdit] | None = None) -> Tensor:
    """Logits [tokens, vocab] of one text alone, rows replaced by plain hooks."""
    handles = [host.attach(HookPoint.parse(point), edit) for point, edit in (edits or {}).items()]
    try:
        with torch.no_grad():
            found: Tensor = host.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    finally:
        for handle in handles:
            handle.remove()
    return found.double()


def naive_rows(host: HostModel, ids: tuple[int, ...], hook_point: str) -> Tensor:
    """Rows [tokens, d_model] at a hook point."""
    seen: list[Tensor] = []

    def look(rows: Tensor) -> Tensor:
        seen.append(rows.clone())
        return rows

    naive_logits(host, ids, {hook_point: look})
    return seen[0]
