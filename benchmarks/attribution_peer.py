"""The same attributions by SAELens and TransformerLens, in an environment that has them.

`python -m benchmarks.attribution_peer JOB.json` prints one JSON line. The SAE stands in SAELens's
HookedSAETransformer with its error term. Effects of single features are their activation times the gradient
in `hook_sae_acts_post`, and what the metric loses when that activation is set to zero there. Direct effects
are TransformerLens's `logit_attrs`, which divides by the final norm's cached scale; the norm's weights are
folded into the head for it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Json = dict[str, Any]  # Any: JSON values


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerPrompt:
    """A prompt, the two tokens whose logits are compared, and nodes of the SAE as [position, feature]."""

    token_ids: list[int]
    target: int
    against: int
    nodes: list[list[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerJob:
    """Written by the benchmark, read by the peer; the SAE reads the output of a layer."""

    host_folder: str
    sae_folder: str
    layer: int
    prompts: list[PeerPrompt]

    def write(self, path: Path) -> None:
        """Save as JSON."""
        path.write_text(json.dumps(dataclasses.asdict(self)), encoding="utf-8")


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerAnswer:
    """Of one prompt: the metric, and by node its activation and its effects."""

    value: float
    activations: list[float]
    gradient: list[float]
    ablation: list[float]
    direct: list[float]


def read_job(path: Path) -> PeerJob:
    """The job of a file."""
    values = json.loads(path.read_text(encoding="utf-8"))
    return PeerJob(**{**values, "prompts": [PeerPrompt(**prompt) for prompt in values["prompts"]]})


class Peer:
    """SAELens's model with the SAE in it, folded as `logit_attrs` needs it."""

    def __init__(self, job: PeerJob) -> None:
        from sae_lens import SAE, HookedSAETransformer
        from transformer_lens import loading_from_pretrained
        from transformers import AutoModelForCausalLM, AutoTokenizer

        hf: Any = AutoModelForCausalLM.from_pretrained(job.host_folder, dtype=torch.float32)
        config: Any = loading_from_pretrained.get_pretrained_model_config(
            job.host_folder, device="cpu", dtype=torch.float32
        )
        weights = loading_from_pretrained.get_pretrained_state_dict(job.host_folder, config, hf)
        self._model: Any = HookedSAETransformer(config, AutoTokenizer.from_pretrained(job.host_folder))
        self._model.load_and_process_state_dict(
            weights,
            fold_ln=True,
            center_writing_weights=False,
            center_unembed=False,
            fold_value_biases=False,
        )
        sae: Any = SAE.load_from_disk(job.sae_folder, device="cpu")
        self._w_dec: Tensor = sae.W_dec.detach()
        self._model.add_sae(sae, use_error_term=True)
        self._acts_name = f"blocks.{job.layer}.hook_resid_post.hook_sae_acts_post"

    def answer(self, prompt: PeerPrompt) -> PeerAnswer:
        """All effects on one prompt."""
        ids = torch.tensor([prompt.token_ids])
        seen: list[Tensor] = []

        def keep(acts: Tensor, hook: Any) -> Tensor:  # noqa: ARG001  # a hook function's
            seen.append(acts)
            return acts

        with torch.enable_grad():
            logits = self._model.run_with_hooks(ids, fwd_hooks=[(self._acts_name, keep)])
            value = self._metric(logits, prompt)
            (gradients,) = torch.autograd.grad(value, seen[0])
        acts, gradient = seen[0].detach()[0], gradients[0]
        return PeerAnswer(
            value=float(value),
            activations=[float(acts[p, f]) for p, f in prompt.nodes],
            gradient=[float(acts[p, f] * gradient[p, f]) for p, f in prompt.nodes],
            ablation=[float(value) - self._without(ids, prompt, p, f) for p, f in prompt.nodes],
            direct=self._direct(ids, prompt, acts),
        )

    @torch.no_grad()
    def _without(self, ids: Tensor, prompt: PeerPrompt, position: int, feature: int) -> float:
        def clear(acts: Tensor, hook: Any) -> Tensor:  # noqa: ARG001  # a hook function's
            acts[0, position, feature] = 0.0
            return acts

        return float(
            self._metric(self._model.run_with_hooks(ids, fwd_hooks=[(self._acts_name, clear)]), prompt)
        )

    @torch.no_grad()
    def _direct(self, ids: Tensor, prompt: PeerPrompt, acts: Tensor) -> list[float]:
        """`logit_attrs` of what each node adds to its row; only the last row reaches the logits directly."""
        _, cache = self._model.run_with_cache(ids)
        last = len(prompt.token_ids) - 1
        added = torch.stack([acts[p, f] * self._w_dec[f] for p, f in prompt.nodes])  # [nodes, d_model]
        found = cache.logit_attrs(
            added[:, None, None, :], tokens=prompt.target, incorrect_tokens=prompt.against, pos_slice=-1
        )
        values = found.flatten().tolist()
        return [value if p == last else 0.0 for value, (p, _) in zip(values, prompt.nodes, strict=True)]

    def _metric(self, logits: Tensor, prompt: PeerPrompt) -> Tensor:
        return logits[0, -1, prompt.target] - logits[0, -1, prompt.against]


def main() -> None:
    """Answer the job that the command line names."""
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        job = read_job(Path(sys.argv[1]))
        peer = Peer(job)
        answers = [dataclasses.asdict(peer.answer(prompt)) for prompt in job.prompts]
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
