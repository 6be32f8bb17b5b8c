"""The trainer: corpus files in, SAE folders that the server loads out.

A chain of packages, each importing only those above it:
- `corpus`: files to documents to token blocks
- `activations`: token blocks through the host to rows of activations, cached or not, mixed into batches
- `architectures`: the trainable SAEs, a file each
- `training`: the steps, with schedules, checkpoints and the run's log
- `evaluation`: what is measured on held-out tokens
- `features`: statistics, labels and contexts of every feature
- `export`: the served form, compared with what was trained before it is written

Beside them `formats`, which reads other tools' SAE files and knows none of those packages.

`pipeline` joins them into the commands of `__main__`; `config` is the run's one TOML file, `ranks` the
processes that share a run. Of steerd the trainer sees `steerd.sae`, `steerd.host` and `steerd.errors` only.
"""
