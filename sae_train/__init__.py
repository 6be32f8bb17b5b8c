"""Trains the SAEs that steerd serves. Of steerd it sees `sae`, `host` and `errors` only.

A run is a chain of iterators: corpus, token blocks, host activations, mixing buffer, training step; then
evaluation on held-out tokens and export to a folder that `steerd serve` loads.

- `__main__`: the command `sae-train`
"""
