"""The trainable SAEs, a file each: `standard`, `gated`, `topk`, `batch_topk`, `matryoshka`, `jumprelu`.

- `catalogue`: each by its name in a configuration
- `trainable_sae`: what every one of them is to the training loop
- `unit_decoder`: the constraint on decoder rows that most of them share
- `pre_acts`: the dense encoder; `largest_entries`: the choice of a row's or a batch's largest
- `entries`: which entries a step works with, and products with those; `sparse_code`: their gradients
- `step_numbers`, `auxk`: what losses and reports are made of
- `served_form`: the way to what is exported
"""
