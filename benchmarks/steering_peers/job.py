"""Steered requests, and the lines by which a tool is asked to serve them."""

from __future__ import annotations

import contextlib
import json
import sys
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class SteeredRequest:
    """A prompt, continued while a multiple of one feature's direction is added to every row of it."""

    prompt_ids: list[int]
    feature: int
    strength: float


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every tool is given: one host, one SAE, requests that all get `num_new` tokens, greedily."""

    host_folder: str
    sae_folder: str
    layer: int
    """The SAE reads the output of this layer."""
    num_new: int
    threads: int
    requests: list[SteeredRequest]

    @property
    def hook_name(self) -> str:
        """Where the SAE reads, as TransformerLens and SAELens call it."""
        return f"blocks.{self.layer}.hook_resid_post"

    def pushes(self) -> Tensor:
        """What is added to the rows of each request, [requests, d_model] float32."""
        directions = load_file(Path(self.sae_folder) / "sae_weights.safetensors")["W_dec"].float()
        return torch.stack([request.strength * directions[request.feature] for request in self.requests])


def read_job(line: dict[str, Any]) -> Job:
    """The job of a JSON object."""
    requests = [SteeredRequest(**request) for request in line["requests"]]
    return Job(**{**line, "requests": requests})


class Tool(ABC):
    """One way to serve a job; its model is loaded when it is made."""

    packages: tuple[str, ...] = ("torch", "transformers")
    """Whose versions are told."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.pushes = job.pushes()

    @abstractmethod
    def generate(self, numbers: Sequence[int]) -> list[list[int]]:
        """The new tokens of these requests of the job."""


def load_host(job: Job) -> tuple[Any, Any]:
    """transformers' model and tokenizer; no token ends a text."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(job.host_folder, dtype=torch.float32)
    model.requires_grad_(False)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model, AutoTokenizer.from_pretrained(job.host_folder)


def answer_lines(make: type[Tool]) -> None:
    """Answer {"job": ...} with versions, {"generate": numbers} with seconds and token ids, until the end.

    What the tools print goes to stderr.
    """
    tool: Tool | None = None
    for line in sys.stdin:
        request = json.loads(line)
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")
            if "job" in request:
                job = read_job(request["job"])
                torch.set_num_threads(job.threads)
                tool = make(job)
                reply: dict[str, Any] = {"versions": {name: version(name) for name in make.packages}}
            else:
                assert tool is not None
                started = time.perf_counter()
                token_ids = tool.generate(request["generate"])
                reply = {"seconds": time.perf_counter() - started, "token_ids": token_ids}
        print(json.dumps(reply), flush=True)
