"""Cases of OpenAI's sparse_autoencoder. `python -m benchmarks.format_peers.openai_cases FOLDER`, with a
checkout of it in PYTHONPATH.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

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


def main() -> None:
    """Write every case."""
    root = Path(sys.argv[1])
    model = import_module("sparse_autoencoder.model")
    path = "sae/gpt2-small/resid_delta_mlp_v4/autoencoders/5.pt"
    for seed, (kind, activation, normalize, refused) in enumerate(
        [
            ("ReLU", torch.nn.ReLU(), False, ""),
            ("TopK", model.TopK(K), True, "reads each token after a layer norm"),
            ("Identity", torch.nn.Identity(), False, "activation must be 'ReLU', found 'Identity'"),
        ]
    ):
        weights = RandomWeights(seed)
        coder = model.Autoencoder(D_SAE, D_MODEL, activation=activation, normalize=normalize)
        with torch.no_grad():
            coder.encoder.weight.copy_(weights.W_enc.T)
            coder.latent_bias.copy_(weights.b_enc)
            coder.decoder.weight.copy_(weights.W_dec.T)
            coder.pre_bias.copy_(weights.b_dec)
        case = Case(peer="openai", layout="openai", kind=kind, path=path, refused=refused)
        folder = case_folder(root, case)
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        torch.save(coder.state_dict(), folder / path)
        if refused:
            write_case(folder, case)
            continue
        loaded = model.Autoencoder.from_state_dict(torch.load(folder / path))
        with torch.no_grad():
            acts, info = loaded.encode(weights.x)
            write_case(folder, case, Expected(weights.x, acts, loaded.decode(acts, info)))


if __name__ == "__main__":
    main()
