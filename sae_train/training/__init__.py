"""The training loop.

- `run_setup` makes everything that a run begins with, `trainer` runs it to its end
- `sae_training` is one SAE while it learns, with `schedules` and `firing_record`; `trained_sae` is the result
- `checkpoint` and `run_log` are what a run leaves on the way
"""
