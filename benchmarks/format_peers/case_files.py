"""One case: SAE files as a peer writes them, rows, and the activations that the peer's code computes.

FOLDER/PEER/CASE/sae/...              the files, in the peer's layout
FOLDER/PEER/CASE/expected.safetensors x [rows, d_model], acts [rows, d_sae], recon [rows, d_model]
FOLDER/PEER/CASE/case.json            what to import and how; for files to be refused, words of the reason
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

D_MODEL, D_SAE, ROWS, K = 96, 384, 128, 12

EXPECTED = "expected.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """`path` is what to import, from the case's folder; `options` are the importer's; `refused` is empty or
    words of the reason for which the files must be refused."""

    peer: str
    layout: str
    kind: str
    path: str
    options: dict[str, Any] = field(default_factory=dict)
    refused: str = ""

    @property
    def name(self) -> str:
        """The folder's name."""
        return f"{self.layout} {self.kind}".replace(" ", "-").replace(",", "")


@dataclass(frozen=True, slots=True, eq=False)
class Expected:
    """What the peer's code gives: all float32."""

    x: Tensor
    acts: Tensor
    recon: Tensor


def case_folder(root: Path, case: Case) -> Path:
    """Where the case lies, made if need be."""
    folder = root / case.peer.split()[0] / case.name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_case(folder: Path, case: Case, expected: Expected | None = None) -> None:
    """Write what the importer is to be asked and, unless it is to refuse, what is expected."""
    (folder / "case.json").write_text(json.dumps(asdict(case), indent=1) + "\n", encoding="utf-8")
    if expected is not None:
        write_expected(folder / EXPECTED, expected)


def write_expected(path: Path, expected: Expected) -> None:
    """Write rows and what was computed from them."""
    tensors = {"x": expected.x, "acts": expected.acts, "recon": expected.recon}
    save_file({name: tensor.detach().float().contiguous() for name, tensor in tensors.items()}, path)


def read_cases(root: Path) -> list[tuple[Path, Case]]:
    """Every case under the folder, in order of name."""
    folders = sorted(path.parent for path in root.glob("*/*/case.json"))
    return [(folder, Case(**json.loads((folder / "case.json").read_text()))) for folder in folders]


def read_expected(path: Path) -> Expected:
    """Rows and what was computed from them."""
    return Expected(**load_file(path))


class RandomWeights:
    """Weights of an SAE with some of everything: a bias on both sides, decoder rows of several lengths, and
    thresholds; named and laid out as SAELens does."""

    def __init__(self, seed: int, d_model: int = D_MODEL, d_sae: int = D_SAE) -> None:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        directions = normal(d_sae, d_model)
        self.W_unit = directions / directions.norm(dim=1, keepdim=True)  # [d_sae, d_model]
        self.norms = torch.linspace(0.4, 2.5, d_sae)[torch.randperm(d_sae, generator=generator)]
        self.W_dec = self.W_unit * self.norms.unsqueeze(1)
        self.W_enc = normal(d_model, d_sae) / d_model**0.5
        self.b_enc = 0.2 * normal(d_sae) - 0.5
        self.b_dec = 0.3 * normal(d_model)
        self.threshold = 0.5 * normal(d_sae).abs()
        self.r_mag = 0.4 * normal(d_sae)
        self.b_gate = 0.3 * normal(d_sae) - 0.8
        self.b_mag = 0.3 * normal(d_sae)
        self.x = normal(ROWS, d_model)
