"""The trainable SAEs, a file each: `standard`, `gated`, `topk`, `batch_topk`, `matryoshka`, `jumprelu`.

- `catalogue`: each by its name in a configuration
- `trainable_sae`: what every one of them is to the training loop
- `squared_error`, `auxk`: losses that they share; `unit_decoder`: the constraint on decoder rows
- `largest_entries`: the choice of a batch's largest activations
- `sparse_code`: the products of a step with sparse activations
"""
