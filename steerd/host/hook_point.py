"""Where in the host an SAE reads and writes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from steerd.errors import HostError

Site = Literal["resid_pre", "resid_post", "mlp_out", "attn_out"]
SITES: tuple[Site, ...] = get_args(Site)

_PLACES: dict[Site, int] = {"resid_pre": 0, "attn_out": 1, "mlp_out": 1, "resid_post": 2}

_PRINTED = re.compile(rf"blocks\.(\d+)\.hook_({'|'.join(SITES)})")


@dataclass(frozen=True, order=True, slots=True)
class HookPoint:
    """A site of one decoder layer, printed in TransformerLens's form: `blocks.5.hook_resid_post`.

    `resid_pre` and `resid_post` are the residual stream before and after the layer; `mlp_out` and `attn_out`
    are what the layer's MLP and attention add to it.
    """

    layer: int
    site: Site

    def __str__(self) -> str:
        return f"blocks.{self.layer}.hook_{self.site}"

    @property
    def of_rows(self) -> HookPoint:
        """The one name of rows that have two: what enters a layer is what left the one before."""
        return HookPoint(self.layer - 1, "resid_post") if self.site == "resid_pre" and self.layer else self

    @property
    def layers_before(self) -> int:
        """How many layers a forward has wholly run when it comes here."""
        return self.layer + (self.site == "resid_post")

    @property
    def depth(self) -> tuple[int, int]:
        """Larger where a forward comes later; attn_out and mlp_out of one layer have no order."""
        return self.layer, _PLACES[self.site]

    def follows(self, other: HookPoint) -> bool:
        """Whether a forward comes here at `other` or after it."""
        return self == other or other.depth < self.depth

    @classmethod
    def parse(cls, text: str) -> HookPoint:
        """Read the printed form; raises HostError for anything else."""
        match = _PRINTED.fullmatch(text)
        if match is None:
            raise HostError(
                f"hook point {text!r} is not blocks.LAYER.hook_SITE with SITE one of {', '.join(SITES)}"
            )
        return cls(layer=int(match[1]), site=match[2])  # type: ignore[arg-type]  # the pattern admits only SITES
