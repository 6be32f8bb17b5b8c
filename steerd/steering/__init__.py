"""What is to be done at a hook point: decided before the forward, computed inside it.

- `intervention`: what a request wishes to be done to features, as data
- `scope`: the rows of a request that it is for, as data
- `loaded_saes`: the SAEs being served, each bound to its hook point
- `request_wishes`: a request's interventions and readings, resolved to columns of the feature tables
- `feature_table`: encoder vectors and directions in use, gathered once
- `row_span`: which rows of a step are a request's, and in a scope
- `step_plan`: rows and wishes of one step, turned into tensors
- `steered_point`: the hook, which reads what was planned and does arithmetic
- `apply`: the arithmetic of a step, on tensors only

Every edit is the affine form x + (gain * z + bias) * d of one feature's activation z and direction d.
Readings are taken before the edits of their hook point. A step without edits is bit-identical to the plain
model.
"""
