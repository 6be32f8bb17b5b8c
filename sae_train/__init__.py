"""The trainer: corpus files in, SAE folders that the server loads out.

A chain of packages, each importing only those above it:
- `corpus`: files to documents to token blocks
- `activations`: token blocks through the host to rows of activations, cached or not, mixed into batches
- `architectures`: the trainable SAEs, a file each
- `training`: the steps, with schedules, checkpoints and the run's log
- `evaluation`: what is measured on held-out tokens
- `features`: statistics, labels and contexts of every feature
- `labels`: labels tested on held-out texts
- `export`: the served form, compared with what was trained before it is written
- `report`: a page to look at an SAE and its features
- `known_truth`: how much SAEs find of data whose features are known

Beside them `formats`, which reads other tools' SAE files and knows none of those packages.

`pipeline` joins them into the commands of `__main__`. A run's one TOML file is read by `config_file`, with
`toml_tables`, into the sections of `config`; `recipe` is what of it decides the result. `surroundings` is
what a run works among, `ranks` the processes that share it. Of steerd the trainer sees `steerd.sae`,
`steerd.host` and `steerd.errors` only.
"""
