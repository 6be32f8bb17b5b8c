"""Cases of sparsify. `python -m benchmarks.format_peers.sparsify_cases FOLDER`, in an environment that has
eai-sparsify.
"""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.format_peers.case_files import (
    D_MODEL,
    D_SAE,
    Case,
    Expected,
    K,
    RandomWeights,
    case_folder,
    write_case,
)

os.environ.setdefault("SPARSIFY_DISABLE_TRITON", "1")  # read when sparsify is imported

_REFUSED: dict[str, dict[str, Any]] = {
    "which features are active would depend on groups": {"activation": "groupmax"},
    "its output has a part that no feature carries": {"skip_connection": True},
    "it predicts another activation than it reads": {"transcode": True},
}


def main() -> None:
    """Write every case."""
    root = Path(sys.argv[1])
    _write(root, "topk", 0, {"num_latents": D_SAE})
    _write(root, "topk, expansion factor", 1, {"expansion_factor": D_SAE // D_MODEL})
    _write(root, "topk, unit decoder", 2, {"num_latents": D_SAE}, unit=True)
    _write(root, "topk, multi_topk", 3, {"num_latents": D_SAE, "multi_topk": True})
    _write(root, "topk, bfloat16", 4, {"num_latents": D_SAE}, dtype=torch.bfloat16)
    for seed, (reason, settings) in enumerate(_REFUSED.items(), start=10):
        kind = "=".join(map(str, next(iter(settings.items()))))
        _write(root, kind, seed, settings | {"num_latents": D_SAE}, refused=reason)


def _write(
    root: Path,
    kind: str,
    seed: int,
    settings: dict[str, Any],
    *,
    unit: bool = False,
    dtype: torch.dtype = torch.float32,
    refused: str = "",
) -> None:
    sparsify = import_module("sparsify")
    weights = RandomWeights(seed)
    coder = sparsify.SparseCoder(D_MODEL, sparsify.SparseCoderConfig(k=K, **settings), dtype=dtype)
    with torch.no_grad():
        coder.encoder.weight.copy_(weights.W_enc.T)
        coder.encoder.bias.copy_(weights.b_enc)
        coder.W_dec.copy_(weights.W_dec)
        coder.b_dec.copy_(weights.b_dec)
        if unit:
            coder.set_decoder_norm_to_unit_norm()
    case = Case(
        peer=f"sparsify {version('eai-sparsify')}",
        layout="sparsify",
        kind=kind,
        path="sae/run/layers.3",
        refused=refused,
    )
    folder = case_folder(root, case)
    coder.save_to_disk(folder / case.path)
    run = {"model": "tiny/host", "dataset": "a/corpus", "ctx_len": 2048}
    (folder / case.path).parent.joinpath("config.json").write_text(json.dumps(run))
    if refused:
        write_case(folder, case)
        return
    loaded = sparsify.SparseCoder.load_from_disk(folder / case.path).float()
    with torch.no_grad():
        top = loaded.encode(weights.x)
        acts = torch.zeros(len(weights.x), D_SAE).scatter(1, top.top_indices, top.top_acts)
        recon = loaded.decode(top.top_acts, top.top_indices)
    write_case(folder, case, Expected(weights.x, acts, recon))


if __name__ == "__main__":
    main()
