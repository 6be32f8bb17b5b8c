"""TransformerLens's logit lens and SAELens's activations, the host as HookedTransformer computes it.

`python -m benchmarks.lens_peers.hooked_transformer JOB.json`, in an environment that has sae-lens. Of each
text: `logprobs` [layers, tokens, chosen] and `likeliest` [layers, tokens] of the residual stream after every
layer, and by SAE `values` and `features` [tokens, TOP], `norms` and `errors` [tokens].
"""

from __future__ import annotations

import json
import warnings
from importlib.metadata import version
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.lens_peers.job import TOP, Job, LookedAt, read_job

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of sae-lens and what it imports
    from sae_lens import SAE
    from transformer_lens import HookedTransformer, loading_from_pretrained
    from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    """Look at every text, write what is seen, and print versions."""
    job = read_job()
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        model = _load(job.host_folder)
        saes = {name: SAE.load_from_disk(folder, device="cpu") for name, folder in job.sae_folders.items()}
        found = {
            f"{number}.{name}": tensor.contiguous()
            for number, text in enumerate(job.texts)
            for name, tensor in _seen(model, saes, job, text).items()
        }
    save_file(found, job.found)
    print(json.dumps({name: version(name) for name in ("transformer-lens", "sae-lens", "torch")}))


def _load(folder: str) -> Any:  # Any: TransformerLens's types are of no use here
    """The host with its weights as they are: nothing folded, nothing centred."""
    hugging_face = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    # `from_pretrained` knows hosts by their names alone; these are the steps that it takes.
    config: Any = loading_from_pretrained.get_pretrained_model_config(
        folder, device="cpu", dtype=torch.float32
    )
    weights = loading_from_pretrained.get_pretrained_state_dict(folder, config, hugging_face)
    model: Any = HookedTransformer(config, AutoTokenizer.from_pretrained(folder))
    model.load_and_process_state_dict(
        weights, fold_ln=False, center_writing_weights=False, center_unembed=False, fold_value_biases=False
    )
    return model


def _seen(model: Any, saes: dict[str, Any], job: Job, text: LookedAt) -> dict[str, Tensor]:
    sae, hooks = saes[job.ablating], []

    def ablate(resid: Tensor, hook: Any) -> Tensor:  # noqa: ARG001  # a hook function's
        acts = sae.encode(resid)[..., text.ablated]
        edited: Tensor = resid - acts.unsqueeze(-1) * sae.W_dec[text.ablated]
        return edited

    if text.ablated is not None:
        hooks.append((_name(job.sae_layers[job.ablating]), ablate))
    with model.hooks(fwd_hooks=hooks):
        _, cache = model.run_with_cache(
            torch.tensor([text.token_ids]),
            return_type=None,
            names_filter=lambda name: name.endswith("hook_resid_post"),
        )
    rows = [cache[_name(layer)][0] for layer in range(model.cfg.n_layers)]  # each [tokens, d_model]
    logprobs = [model.unembed(model.ln_final(resid[None]))[0].log_softmax(dim=-1) for resid in rows]
    found = {
        "logprobs": torch.stack([of_layer[:, job.chosen] for of_layer in logprobs]),
        "likeliest": torch.stack([of_layer.argmax(dim=-1) for of_layer in logprobs]),
    }
    for name, reading in saes.items():
        resid = rows[job.sae_layers[name]]
        acts = reading.encode(resid)
        values, features = acts.topk(TOP, dim=-1)
        found |= {f"{name}.values": values, f"{name}.features": features, f"{name}.norms": resid.norm(dim=-1)}
        found[f"{name}.errors"] = (resid - reading.decode(acts)).norm(dim=-1)
    return found


def _name(layer: int) -> str:
    return f"blocks.{layer}.hook_resid_post"


if __name__ == "__main__":
    main()
