"""From token blocks to batches of activations.

- `host_activations`: blocks through the host, stopped after the last hook point
- `harvest` runs the corpus through it once into an `activation_cache`
- `training_rows` streams the cache's training part, `held_out` its held-out part
- `mixing_buffer` shuffles rows into batches, `activation_scale` measures them once
"""
