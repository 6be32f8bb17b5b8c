"""One training step of another library's own trainer, timed; runs in that library's environment.

`python sae_step_peer.py LIBRARY` reads JSON lines and answers each with one:
    {"build": NAME, ...}         make a system; what it needs stands in `Wish`; answers the versions
    {"run": NAME, "steps": N}    take N steps; answers the seconds of each, and those of all threads
    {"l0": NAME}                 answers the mean number of active features a row of the next batch
    {"drop": NAME}               forget a system
Libraries: saelens, dictionary_learning, sparsify. Every system clips or constrains as its library does,
counts who fired, and has nobody dead, so that no auxiliary loss is computed.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor

LEARNING_RATE = 1e-6  # so small that the sparsity stays as it is at the start


@dataclass(frozen=True)
class Wish:
    """What a system is to be."""

    architecture: str
    """As this project names it."""
    d_sae: int
    k: int
    """Active features a row: chosen, or what standard, gated and jumprelu start with."""
    widths: list[int]
    """Prefixes of a matryoshka, the last being d_sae."""
    batch_size: int
    rows: str
    """An .npy file [rows, d_model] float32, scaled so that the mean squared norm is d_model."""
    threads: int
    options: dict[str, Any]
    """The library's own settings."""


class System(ABC):
    """A trainer with its data, going through them batch by batch."""

    def __init__(self, wish: Wish) -> None:
        self.wish = wish
        torch.set_num_threads(wish.threads)
        torch.manual_seed(0)
        self.rows = torch.from_numpy(np.load(wish.rows))
        self.steps = 0

    def next_batch(self) -> Tensor:
        """Return [batch_size, d_model], a slice of the rows."""
        size = self.wish.batch_size
        start = self.steps % (len(self.rows) // size) * size
        return self.rows[start : start + size]

    def start_bias(self, W_enc: Tensor, b_dec: Tensor | None = None) -> float:
        """Return the bias of encoder columns with which k features a row are positive."""
        sample = self.rows[:512] - (0 if b_dec is None else b_dec)
        pre_acts = (sample @ W_enc.detach()).flatten()
        return -float(pre_acts.kthvalue(len(pre_acts) - self.wish.k * 512).values)

    @abstractmethod
    def step(self, x: Tensor) -> None:
        """Take one training step."""

    @abstractmethod
    def l0(self, x: Tensor) -> float:
        """Return the mean number of active features a row."""


class SaeLens(System):
    """`SAETrainer.step`, SAELens's public seam for one training step."""

    def __init__(self, wish: Wish) -> None:
        super().__init__(wish)
        lens, trainer = import_module("sae_lens"), import_module("sae_lens.training.sae_trainer")
        name, extra = _saelens_kind(wish)
        config = getattr(lens, f"{name}TrainingSAEConfig")(
            d_in=self.rows.shape[1], d_sae=wish.d_sae, **extra, **wish.options
        )
        self.sae = getattr(lens, f"{name}TrainingSAE")(config)
        self._start()
        settings = import_module("sae_lens.config").SAETrainerConfig(
            total_training_samples=10**9,
            train_batch_size_samples=wish.batch_size,
            lr=LEARNING_RATE,
            lr_end=LEARNING_RATE,
            dead_feature_window=10**6,
        )
        self.trainer = trainer.SAETrainer(cfg=settings, sae=self.sae, data_provider=iter(()))

    def _start(self) -> None:
        architecture, W_enc = self.wish.architecture, self.sae.W_enc
        if architecture == "standard":
            self.sae.b_enc.data.fill_(self.start_bias(W_enc))
        elif architecture == "gated":
            self.sae.b_gate.data.fill_(self.start_bias(W_enc))
        elif architecture == "jumprelu":
            self.sae.threshold.data.fill_(-self.start_bias(W_enc))

    def step(self, x: Tensor) -> None:
        self.trainer.step(x)
        self.trainer.n_training_steps += 1

    @torch.no_grad()
    def l0(self, x: Tensor) -> float:
        acts, _ = self.sae.encode_with_hidden_pre(x)
        return float((acts.to_dense() > 0).sum() / len(x))


def _saelens_kind(wish: Wish) -> tuple[str, dict[str, Any]]:
    kinds: dict[str, tuple[str, dict[str, Any]]] = {
        "standard": ("Standard", {"l1_coefficient": 5.0}),
        "gated": ("Gated", {"l1_coefficient": 5.0}),
        "topk": ("TopK", {"k": wish.k}),
        "batch_topk": ("BatchTopK", {"k": wish.k}),
        "matryoshka_batch_topk": (
            "MatryoshkaBatchTopK",
            {"k": wish.k, "matryoshka_widths": list(wish.widths)},
        ),
        "jumprelu": ("JumpReLU", {"jumprelu_sparsity_loss_mode": "quadratic", "target_l0": float(wish.k)}),
    }
    return kinds[wish.architecture]


class DictionaryLearning(System):
    """A trainer's `update`, as `dictionary_learning.training.trainSAE` calls it."""

    def __init__(self, wish: Wish) -> None:
        super().__init__(wish)
        kinds: dict[str, tuple[str, str, dict[str, Any]]] = {
            "standard": ("standard", "StandardTrainerAprilUpdate", {}),
            "gated": ("gdm", "GatedSAETrainer", {}),
            "topk": ("top_k", "TopKTrainer", {"k": wish.k}),
            "batch_topk": ("batch_top_k", "BatchTopKTrainer", {"k": wish.k}),
            "matryoshka_batch_topk": (
                "matryoshka_batch_top_k",
                "MatryoshkaBatchTopKTrainer",
                {"k": wish.k, "group_fractions": _fractions(wish.widths)},
            ),
            "jumprelu": ("jumprelu", "JumpReluTrainer", {"target_l0": float(wish.k)}),
        }
        module, name, extra = kinds[wish.architecture]
        self.trainer = getattr(import_module(f"dictionary_learning.trainers.{module}"), name)(
            steps=10**6,
            activation_dim=self.rows.shape[1],
            dict_size=wish.d_sae,
            layer=0,
            lm_name="none",
            device="cpu",
            lr=LEARNING_RATE,
            **extra,
        )
        self._start()

    def _start(self) -> None:
        ae = self.trainer.ae
        if self.wish.architecture == "standard":
            ae.encoder.bias.data.fill_(self.start_bias(ae.encoder.weight.T))
        elif self.wish.architecture == "gated":
            ae.gate_bias.data.fill_(self.start_bias(ae.encoder.weight.T))
        elif self.wish.architecture == "jumprelu":
            ae.threshold.data.fill_(-self.start_bias(ae.W_enc))

    def step(self, x: Tensor) -> None:
        self.trainer.update(self.steps, x)

    @torch.no_grad()
    def l0(self, x: Tensor) -> float:
        if "topk" in self.wish.architecture:
            return float(self.wish.k)
        return float((self.trainer.ae.encode(x) > 0).sum() / len(x))


def _fractions(widths: list[int]) -> list[float]:
    return [(high - low) / widths[-1] for low, high in zip([0, *widths], widths, strict=False)]


class Sparsify(System):
    """A `SparseCoder` with the calls around it of sparsify's trainer, which needs a language model."""

    def __init__(self, wish: Wish) -> None:
        super().__init__(wish)
        config = import_module("sparsify").SparseCoderConfig(num_latents=wish.d_sae, k=wish.k)
        self.sae = import_module("sparsify").SparseCoder(self.rows.shape[1], config, dtype=torch.float32)
        self.sae.b_dec.data = self.rows[: wish.batch_size].mean(0)
        sign_sgd = import_module("sparsify.sign_sgd").SignSGD
        groups = [{"params": self.sae.parameters(), "lr": LEARNING_RATE}]
        self.optimiser = import_module("schedulefree").ScheduleFreeWrapper(sign_sgd(groups), momentum=0.95)
        self.optimiser.train()
        self.tokens_since_fired = torch.zeros(wish.d_sae, dtype=torch.long)

    def step(self, x: Tensor) -> None:
        self.sae.set_decoder_norm_to_unit_norm()
        out = self.sae(x=x, y=x, dead_mask=None, total_variance=(x - x.mean(0)).pow(2).sum())
        (out.fvu + out.multi_topk_fvu / 8).backward()
        self.sae.remove_gradient_parallel_to_decoder_directions()
        self.optimiser.step()
        self.optimiser.zero_grad()
        fired = torch.zeros_like(self.tokens_since_fired, dtype=torch.bool)
        fired[out.latent_indices.flatten()] = True
        self.tokens_since_fired += len(x)
        self.tokens_since_fired[fired] = 0

    def l0(self, x: Tensor) -> float:  # noqa: ARG002  # the same for every batch
        return float(self.wish.k)


LIBRARIES: dict[str, tuple[type[System], str]] = {
    "saelens": (SaeLens, "sae-lens"),
    "dictionary_learning": (DictionaryLearning, "dictionary-learning"),
    "sparsify": (Sparsify, "eai-sparsify"),
}


def answer(systems: dict[str, System], library: str, request: dict[str, Any]) -> dict[str, Any]:
    """Do what a line asks for."""
    kind, package = LIBRARIES[library]
    if "build" in request:
        name = request.pop("build")
        systems[name] = kind(Wish(**request))
        return {"versions": {package: version(package), "torch": torch.__version__}}
    if "l0" in request:
        system = systems[request["l0"]]
        return {"l0": system.l0(system.next_batch())}
    if "drop" in request:
        del systems[request["drop"]]
        return {}
    system, seconds, cpu_seconds = systems[request["run"]], [], []
    for _ in range(request["steps"]):
        x = system.next_batch()
        started, cpu_started = time.perf_counter(), time.process_time()
        system.step(x)
        seconds.append(time.perf_counter() - started)
        cpu_seconds.append(time.process_time() - cpu_started)
        system.steps += 1
    return {"seconds": seconds, "cpu_seconds": cpu_seconds}


def main() -> None:
    """Answer line by line; what the libraries print goes to stderr."""
    os.environ.setdefault("SPARSIFY_DISABLE_TRITON", "1")
    systems: dict[str, System] = {}
    for line in sys.stdin:
        with contextlib.redirect_stdout(sys.stderr):
            reply = answer(systems, sys.argv[1], json.loads(line))
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
