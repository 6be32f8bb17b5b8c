"""The job's host in nnsight's form."""

from __future__ import annotations

from typing import Any

from nnsight import LanguageModel

from benchmarks.steering_peers.job import Job, load_host


def load_model(job: Job) -> Any:
    """nnsight's model around transformers' own."""
    model, tokenizer = load_host(job)
    tokenizer.padding_side = "left"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return LanguageModel(model, tokenizer=tokenizer)
