"""Side-by-side measurements. Each is a command: `python -m benchmarks.NAME [--quick] [--out FILE]`.

- `engine_overhead`: what serving, steering and watching cost next to plain transformers
- `steering_effect`: whether steering by a feature does what the feature's label says
- `sae_step`: what a training step of an SAE costs, next to other libraries

What they are made of:

- `report`: the table, the target lines and the result file that every benchmark ends with
- `outcome`: what came of a request to an engine in the benchmark's process
- `decode_rate`: tokens a second, from the arrival times of tokens
- `generation_systems`: plain transformers, two ways
- `steerd_system`: steerd's engine in the benchmark's process
- `many_wishes`: the steering and watching that it is put under
- `serving_process`: a `steerd serve` process: its start, its memory under load
- `step_systems`: ours and another library's trainer, taking steps when asked; `sae_step_peer` is the other's
- `effect_features`: the rule by which steering_effect picks features and their controls
- `effect_measures`: writes steered texts, and reads them unsteered

A result is a JSON file in benchmarks/results. `--quick` tries a benchmark out on less work and writes no
result unless `--out` says where.
"""
