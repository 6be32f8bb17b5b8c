"""Side-by-side measurements. Each is a command: `python -m benchmarks.NAME [--quick] [--out FILE]`.

- `engine_overhead`: what serving, steering and watching cost next to plain transformers
- `k_sweep`: what a decode step costs by how much is steered, watched and read
- `peers`: sixteen differently steered requests, next to the tools that people use
- `scaling`: time and memory as the batch and the context grow, next to plain transformers
- `startup`: how long imports and a server's start take, next to plain transformers
- `int8_head`: what a head in 8 bits costs in accuracy and gives in speed
- `steering_effect`: whether steering by a feature does what the feature's label says
- `feature_choice`: steering by features with high output scores, with well tested labels, and by any
- `sae_step`: what a training step of an SAE costs, next to other libraries
- `train_run`: what a whole run costs, text to SAE, next to SAELens's runner
- `frontier`: variance explained over L0, next to SAELens on the same rows
- `fast_vs_block`: conversations fed alone or in blocks, at equal L0
- `known_truth`: how much of a synthetic truth SAEs find, next to SAELens on the same rows
- `format_agreement`: imported SAEs next to the code of the tools that wrote them
- `metric_agreement`: the evaluation's numbers next to SAELens's and SAEBench's
- `lens_agreement`: the logit lens and traced features next to TransformerLens's and SAELens's
- `encode_texts`: how long texts take to be encoded by a server, next to SAELens
- `contrast_texts`: how long two sets of texts take to be contrasted, next to SAELens
- `monitoring_overhead`: what all of the monitoring costs a server, and how long its scrapes take
- `attribution_agreement`: predicted effects of features next to measured ones, and next to SAELens's
- `alert_story`: how long it takes until an operator is told of a shift in topics, and of faults

What they are made of:

- `report`: the table, the target lines and the result file that every benchmark ends with
- `outcome`: what came of a request to an engine in the benchmark's process
- `decode_rate`: tokens a second, from the arrival times of tokens
- `generation_systems`: plain transformers, two ways
- `steerd_system`: steerd's engine in the benchmark's process, with the `engine_monitor` that it tells
- `turns`, `paced_systems`: the same systems side by side, a step each in turn
- `layer_saes`, `whole_encoding`: what k_sweep asks of them, and the arithmetic alone
- `many_wishes`: the steering and watching that it is put under
- `alert_watch`, `topic_traffic`, `mortal_server`: who asks Prometheus, who chats, and the server to break
- `scrapes`: /metrics read as Prometheus does it
- `serving_process`: a `steerd serve` process: its start, its memory under load
- `steered_requests`, `steerd_serving`: what peers asks for, and steerd's two ways to serve it
- `scaling_process`: one system of scaling, in a process of its own
- `line_process`: a process that answers line by line
- `step_systems`: ours and another library's trainer, taking steps when asked; `sae_step_peer` is the other's
- `attribution_nodes`: which features attribution_agreement takes out, and what is predicted of them
- `known_truth_search`, `known_truth_sides`: what known_truth tries on either side, and how it chooses
- `frontier_trials`, `cached_rows`: one SAE trained by either side on a cache's rows, and measured
- `saelens_training`, `saelens_run`, `known_truth_peer`, `contrast_peer`, `encode_peer`, `attribution_peer`,
  `lens_peers`, `format_peers`, `metric_peers`, `steering_peers`: the peers' sides, which run in the peers'
  environments
- `effect_features`: the rule by which steering_effect picks features and their controls
- `effect_measures`: writes steered texts, and reads them unsteered
- `choice_figures`: the groups that feature_choice compares, and how
- `bootstrap`: intervals of figures, by resampling what they were computed of

A result is a JSON file in benchmarks/results. `--quick` tries a benchmark out on less work and writes no
result unless `--out` says where.
"""
