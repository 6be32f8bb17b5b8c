"""What is to be done at a hook point: decided before the forward, computed inside it.

- `intervention`: what a request wishes to be done to features, directions and whole SAEs, as data
- `scope`: the rows of a request that it is for, and its strength over them, as data
- `steering`: all that steers one request, as data
- `loaded_saes`: the SAEs being served, each bound to its hook point
- `residual_norms`: how long the host's rows usually are
- `plan_hash`: all that steers a request as bytes, and their hash
- `coverage`: scope and schedule as a factor for each row
- `request_wishes`: a request's interventions and readings, resolved to columns of its hook points' tables
- `wish_resolver`: resolves them when it starts
- `hooked_points`: the hook points in use: tables and hooks
- `point_table`: what is read and edited at one hook point, encoder vectors and directions gathered once
- `edit_tables`: the edits of one hook point by row and column, in tensors that stay from step to step
- `row_span`: which rows of a step are a request's
- `step_layout`: whose rows a step has and what is done to each, kept while it does not change
- `step_plan`: rows and wishes of one step, turned into what the hooks read
- `steered_point`: the hook, which reads what was planned and does arithmetic
- `apply`: the arithmetic of a step, on tensors only

Every edit adds a multiple of one direction d to a row: an affine form of the activation z of its feature, or
of the row's projection on d. At each hook point the multiples are one dense table [rows, columns], zero where
nothing is to be done, so that all edits of a step are one matrix product whoever asked for them.
Readings are taken before the edits of their hook point. A step without edits is bit-identical to the plain
model, and so is every row without edits in a step that has some.
"""
