"""SAELens on SAE folders of ours: what it makes of every imported case.

`python -m benchmarks.format_peers.saelens_reading FOLDER`, in an environment that has sae-lens; writes
`imported*.safetensors` beside each `imported*` folder.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import torch

from benchmarks.format_peers.case_files import EXPECTED, Expected, read_cases, read_expected, write_expected

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of sae-lens and what it imports
    from sae_lens import SAE


def main() -> None:
    """Load and compute."""
    for folder, _ in read_cases(Path(sys.argv[1])):
        for imported in sorted(folder.glob("imported*/")):
            sae = SAE.load_from_disk(imported)
            x = read_expected(folder / EXPECTED).x
            with torch.no_grad():
                acts = sae.encode(x)
                write_expected(folder / f"{imported.name}.safetensors", Expected(x, acts, sae.decode(acts)))


if __name__ == "__main__":
    main()
