"""Texts encoded as it is done with SAELens; runs in SAELens's environment, not in ours.

`python encode_peer.py SPEC.json`: SPEC holds `host_folder`, `sae_folders`, the `layer_modules` that they
read, `texts` (token ids), `batch_texts` and `threads`. Every line on standard input is answered by one:
{"run": true} encodes and tells the seconds, {"codes": PATH, "sae": NUMBER} writes the last run's codes of one
SAE as an .npz file: `counts` by token, `features` and `values` by entry, text by text.

The host runs up to the last layer that is read, on padded batches of texts of like length; `SAE.encode` gives
the features of all rows, of which the active ones are kept.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of sae-lens and what it imports
    from sae_lens import SAE
    from sae_lens.load_model import load_model

Part = tuple[Any, Any, Any]
"""Counts by token, features and values by entry, of one text."""


class Peer:
    """Its host and SAEs are loaded when it is made."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self._spec = spec
        modules = spec["layer_modules"]
        self._model: Any = load_model(
            "AutoModelForCausalLM",
            spec["host_folder"],
            device="cpu",
            model_from_pretrained_kwargs={"dtype": torch.float32},
            hook_names=modules,
        )
        self._saes: list[Any] = [SAE.load_from_disk(folder) for folder in spec["sae_folders"]]
        self._parts: list[dict[int, Part]] = [{} for _ in self._saes]

    def run(self) -> float:
        """Encode all texts; the seconds it took."""
        started = time.perf_counter()
        texts, batch = self._spec["texts"], self._spec["batch_texts"]
        order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
        with torch.no_grad():
            for first in range(0, len(order), batch):
                self._encode(order[first : first + batch])
        return time.perf_counter() - started

    def _encode(self, numbers: list[int]) -> None:
        texts, modules = self._spec["texts"], self._spec["layer_modules"]
        longest = len(texts[numbers[-1]])
        ids = torch.tensor([texts[n] + [0] * (longest - len(texts[n])) for n in numbers])
        _, cache = self._model.run_with_cache(ids, names_filter=modules, stop_at_layer=1)
        for parts, sae, module in zip(self._parts, self._saes, modules, strict=True):
            acts = sae.encode(cache[module])  # [batch, seq, d_sae]
            for row, number in enumerate(numbers):
                of_text = acts[row, : len(texts[number])]
                found = of_text.nonzero()
                parts[number] = (
                    torch.bincount(found[:, 0], minlength=len(of_text)).numpy(),
                    found[:, 1].numpy(),
                    of_text[found[:, 0], found[:, 1]].numpy(),
                )

    def codes(self, sae: int) -> dict[str, Any]:
        """One SAE's codes, text by text."""
        columns = zip(*(self._parts[sae][n] for n in sorted(self._parts[sae])), strict=True)
        names = ("counts", "features", "values")
        return {name: np.concatenate(column) for name, column in zip(names, columns, strict=True)}


def main() -> None:
    """Answer line by line."""
    spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.set_num_threads(spec["threads"])
    peer = Peer(spec)
    for line in sys.stdin:
        request = json.loads(line)
        if "codes" in request:
            np.savez(request["codes"], **peer.codes(request["sae"]))
        print(json.dumps({"seconds": peer.run()} if "run" in request else {}), flush=True)


if __name__ == "__main__":
    main()
