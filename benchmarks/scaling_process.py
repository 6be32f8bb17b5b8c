"""One system of `scaling` in a process of its own, so that its memory can be told: answers line by line.

{"begin": SYSTEM, "host": ..., "batch": ..., "context": ..., "steps": ...}
                load the host and run the prompts; answers the seconds of the prompts
{"steps": N}    decode N tokens of every request; answers the seconds of each
{"end": true}   answers the bytes resident when the host was loaded, and at most since then
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.generation_systems import load_endless_host
from benchmarks.paced_systems import Ask, PacedEngine, PacedGenerate, engine_config
from benchmarks.serving_process import resident_bytes
from benchmarks.turns import PacedSystem, Prompts, num_new_tokens
from steerd.config import EngineConfig
from steerd.host.host_model import HostModel

ENGINE, GENERATE = "steerd", "generate"
_MEMORY = Path("/proc/self")


class ScalingProcess:
    """The system that was begun."""

    def __init__(self, request: dict[str, Any]) -> None:
        host = load_endless_host(request["host"])
        self._prompts = random_prompts(host, request["batch"], request["context"])
        num_new = num_new_tokens(request["steps"], self._prompts, EngineConfig().max_batch_tokens)
        self._resident = resident_bytes("self")
        forget_peak()
        self._system = _system(request["begin"], host, self._prompts, num_new)
        self._system.begin(self._prompts, num_new)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what a line asks for."""
        if "begin" in request:
            return {"prefill_seconds": self._system.prefill_seconds}
        if "steps" in request:
            return {"seconds": [self._system.step() for _ in range(request["steps"])]}
        self._system.end()
        return {"resident_bytes": self._resident, "peak_bytes": peak_bytes()}


def random_prompts(host: HostModel, batch: int, context: int) -> Prompts:
    """Random ordinary tokens; ids below 1000 may be special, where there are so many."""
    last = min(host.vocab_size - len(host.special_token_ids), 40_000)
    generator = torch.Generator().manual_seed(batch * 10_000 + context)
    ids: list[list[int]] = torch.randint(
        min(1000, last // 2), last, (batch, context), generator=generator
    ).tolist()
    return ids


def forget_peak() -> None:
    """Have the kernel count the largest resident memory of this process anew."""
    (_MEMORY / "clear_refs").write_text("5")


def peak_bytes() -> int:
    """The largest resident memory since then."""
    found = re.search(r"VmHWM:\s+(\d+) kB", (_MEMORY / "status").read_text())
    assert found is not None, "the kernel tells no peak"
    return 1024 * int(found[1])


def _system(name: str, host: HostModel, prompts: Prompts, num_new: int) -> PacedSystem:
    if name == GENERATE:
        return PacedGenerate(host)
    return PacedEngine(host, [], engine_config(host, prompts, num_new), Ask())


def main() -> None:
    """Answer line by line; what the libraries print goes to stderr."""
    process: ScalingProcess | None = None
    for line in sys.stdin:
        request = json.loads(line)
        with contextlib.redirect_stdout(sys.stderr):
            process = process or ScalingProcess(request)
            reply = process.answer(request)
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
