"""What both sides look at: the same token ids of one host, some under an ablation, read by the same SAEs."""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path

TOP = 16
"""Features told of each token and SAE."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LookedAt:
    """A text, and the feature of the SAE `ablating` that is ablated on all of it; None: none."""

    token_ids: list[int]
    ablated: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Written by the benchmark, read by the peer, which writes its tensors to `found`."""

    host_folder: str
    sae_folders: dict[str, str]
    sae_layers: dict[str, int]
    """The layer whose output each SAE reads."""
    ablating: str
    chosen: list[int]
    """Tokens whose log-probabilities are told."""
    texts: list[LookedAt]
    found: str

    def write(self, path: Path) -> None:
        """Save as JSON."""
        path.write_text(json.dumps(dataclasses.asdict(self)), encoding="utf-8")


def read_job() -> Job:
    """Return the job of the file that this script's command line names."""
    fields = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    return Job(**{**fields, "texts": [LookedAt(**text) for text in fields["texts"]]})
