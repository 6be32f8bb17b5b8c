"""The contrast of two sets of texts as it is done with SAELens; runs in SAELens's environment, not in ours.

`python contrast_peer.py SPEC.json`: SPEC holds `host_folder`, `sae_folder`, `layer_module`, `texts` (token
ids, A's before B's), `num_a`, `held_out` (numbers of texts), `uncounted` (token ids), `batch_texts` and
`threads`. Every line on standard input is answered by one: {"run": true} contrasts and tells the seconds of
both parts, {"table": PATH} writes the last run's figures as an .npz file.

The host runs up to the SAE's layer on padded batches of texts of like length, `SAE.encode` gives the features
of all rows, and SciPy's Mann-Whitney test and its correction for many tests tell which differ: on one half of
the texts, and of those that were found again on the other.
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
from scipy.stats import false_discovery_control, mannwhitneyu

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of sae-lens and what it imports
    from sae_lens import SAE
    from sae_lens.load_model import load_model

RATE = 0.05


class Peer:
    """Its host and SAE are loaded when it is made."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self._spec = spec
        self._model: Any = load_model(
            "AutoModelForCausalLM",
            spec["host_folder"],
            device="cpu",
            model_from_pretrained_kwargs={"dtype": torch.float32},
            hook_names=[spec["layer_module"]],
        )
        self._sae: Any = SAE.load_from_disk(spec["sae_folder"])
        self._in_a = np.arange(len(spec["texts"])) < spec["num_a"]
        self._held_out = np.isin(np.arange(len(spec["texts"])), spec["held_out"])
        self.table: dict[str, Any] = {}

    def run(self) -> dict[str, float]:
        """Seconds until the peaks are there, and those that statistics take."""
        started = time.perf_counter()
        with torch.no_grad():
            peaks = self._peaks()
        encoded = time.perf_counter()
        self._contrast(peaks)
        return {"encode": encoded - started, "compare": time.perf_counter() - encoded}

    def _peaks(self) -> Any:
        """The largest activation of each feature in each text, [texts, d_sae]."""
        texts, batch = self._spec["texts"], self._spec["batch_texts"]
        uncounted = torch.tensor(self._spec["uncounted"])
        peaks = torch.zeros(len(texts), self._sae.cfg.d_sae)
        order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
        for first in range(0, len(order), batch):
            numbers = order[first : first + batch]
            longest = len(texts[numbers[-1]])
            ids = torch.tensor([texts[n] + [0] * (longest - len(texts[n])) for n in numbers])
            lengths = torch.tensor([len(texts[n]) for n in numbers])
            counted = (torch.arange(longest) < lengths[:, None]) & ~torch.isin(ids, uncounted)
            counted[:, 0] = False
            name = self._spec["layer_module"]
            _, cache = self._model.run_with_cache(ids, names_filter=[name], stop_at_layer=1)
            acts = self._sae.encode(cache[name])  # [batch, seq, d_sae]
            peaks[numbers] = (acts * counted.unsqueeze(-1)).amax(dim=1)
        return peaks.numpy()

    def _contrast(self, peaks: Any) -> None:
        found = self._half(peaks, ~self._held_out, "discovery")
        again = self._half(peaks[:, found], self._held_out, "held_out")
        self.table |= {"found": found, "confirmed": found[again]}

    def _half(self, peaks: Any, chosen: Any, name: str) -> Any:
        """The features of a half that differ."""
        a, b = peaks[chosen & self._in_a], peaks[chosen & ~self._in_a]
        fires = ((a > 0).any(axis=0) | (b > 0).any(axis=0)).nonzero()[0]
        test = mannwhitneyu(a[:, fires], b[:, fires], method="asymptotic")
        q_values = false_discovery_control(test.pvalue)
        delta = np.zeros(peaks.shape[1])
        delta[fires] = 2 * test.statistic / (len(a) * len(b)) - 1
        if name == "discovery":
            self.table |= {
                "cliffs_delta": delta,
                "text_rate_a": (a > 0).mean(axis=0),
                "text_rate_b": (b > 0).mean(axis=0),
                "mean_peak_a": a.mean(axis=0),
                "mean_peak_b": b.mean(axis=0),
            }
        return fires[q_values <= RATE]


def main() -> None:
    """Answer line by line."""
    spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.set_num_threads(spec["threads"])
    peer = Peer(spec)
    for line in sys.stdin:
        request = json.loads(line)
        if "table" in request:
            np.savez(request["table"], **peer.table)
        print(json.dumps(peer.run() if "run" in request else {}), flush=True)


if __name__ == "__main__":
    main()
