"""Where an SAE reads, from the many ways in which files say it to a hook point that steerd serves."""

from __future__ import annotations

import re

from steerd.errors import SaeFileError
from steerd.host.hook_point import SITES, HookPoint, Site

_TRANSFORMER_LENS = re.compile(rf"blocks\.(\d+)\.hook_({'|'.join(SITES)})")
_LAYER = r"(?:(?:model|transformer|gpt_neox|model\.language_model)\.)?(?:layers|h)\.(\d+)"
_MODULES: tuple[tuple[re.Pattern[str], Site], ...] = (
    (re.compile(rf"{_LAYER}(?:\.output)?"), "resid_post"),
    (re.compile(rf"{_LAYER}\.input"), "resid_pre"),
    # Only Gemma has a norm of this name, and it is the last thing before the addition to the stream.
    (re.compile(rf"{_LAYER}\.post_feedforward_layernorm\.output"), "mlp_out"),
)
_ELSEWHERE: tuple[tuple[str, str], ...] = (
    ("hook_z", "attention heads before their output projection"),
    ("o_proj.input", "attention heads before their output projection"),
    ("hook_embed", "token embeddings"),
    ("embed_tokens", "token embeddings"),
    ("hook_mlp_in", "the MLP's input"),
    ("mlp.hook_in", "the MLP's input"),
    ("mlp.hook_post", "the MLP's neurons"),
    ("hook_resid_mid", "the residual stream between attention and MLP"),
)


def resolve_hook_point(said: object, asked: str | None, where: object) -> HookPoint:
    """The hook point that a file says or, where it says none that is certain, the one that was asked for.

    `said` is whatever stands in the file. Raises SaeFileError where both are known and differ, where neither
    is, and where the file names a place that steerd has no hook point for.
    """
    if said is not None and not isinstance(said, str):
        raise SaeFileError(f"{where}: the hook must be a string, found {said!r}")
    wanted = HookPoint.parse(asked) if asked is not None else None
    found = _parse(said, where) if said is not None else None
    if found is not None and wanted is not None and found != wanted:
        raise SaeFileError(f"{where}: reads {found} ({said}), not {wanted} as --hook-point says")
    if found is None and wanted is None:
        reason = f"its hook {said!r} is not certainly one of ours" if said else "no file says where it reads"
        raise SaeFileError(f"{where}: {reason}; give --hook-point blocks.LAYER.hook_SITE")
    hook_point = found or wanted
    assert hook_point is not None
    return hook_point


def _parse(said: str, where: object) -> HookPoint | None:
    for part, place in _ELSEWHERE:
        if part in said:
            raise SaeFileError(f"{where}: reads {place} ({said}), where steerd has no hook point")
    match = _TRANSFORMER_LENS.fullmatch(said)
    if match is not None:
        return HookPoint.parse(said)
    for pattern, site in _MODULES:
        match = pattern.fullmatch(said)
        if match is not None:
            return HookPoint(layer=int(match[1]), site=site)
    return None
