"""The trainer: corpus files in, an SAE folder that the server loads out.

A chain, each link a file:
- `corpus` -> `token_blocks` -> `host_activations`: documents, token sequences, activations of one hook point
- `harvest` runs the chain once into an `activation_cache`, from which `training_rows` streams
- `mixing_buffer` shuffles the rows, `activation_scale` measures them once
- `trainer` takes the steps on a `batch_topk_sae` (its products in `sparse_code`), with `schedules`,
  `feature_stats` for dead features, `checkpoint` and `run_log`
- `export` folds, calibrates (`calibration`), measures (`evaluate` on `held_out`), describes (`feature_pages`,
  `feature_notes`, `provenance`), saves and compares
- `pipeline` joins them into the commands of `__main__`; `config` is the run's one TOML file

Of steerd it sees `steerd.sae`, `steerd.host` and `steerd.errors` only.
"""
