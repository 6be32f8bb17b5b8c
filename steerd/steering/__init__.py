"""What is to be done at a hook point: decided before the forward, computed inside it.

- `intervention`: what a request wishes to be done to features, directions and whole SAEs, and when, as data
- `trigger`: what is to happen when features fire, as data
- `scope`: the rows of a request that it is for, and its strength over them, as data
- `steering`: all that steers one request, as data
- `receipt`: what was done in the end, as data
- `loaded_saes`: the SAEs being served, each bound to its hook point
- `residual_norms`: how long the host's rows usually are
- `sae_identity`: what an SAE computes, as bytes
- `plan_hash`: all that steers a request as bytes, and their hash
- `coverage`: scope and schedule as a factor for each row
- `request_wishes`: a request's interventions and readings, resolved to columns of its hook points' tables
- `lanes`: conditions and bounds of edits, resolved: tests of features and the lanes that they open
- `wish_resolver`: resolves them when it starts; `wish_resolution` is what one request holds on the way
- `hooked_points`: the hook points in use: tables and hooks
- `room`: what tables need to know in advance where they must not move
- `point_table`: what is read and edited at one hook point, encoder vectors and directions gathered once
- `edit_tables`: the edits of one hook point by row and column, in tensors that stay from step to step
- `lane_tables`: the tests and lanes of one hook point by request, and their state from step to step
- `step_rows`: whose rows a step has, for tests and lanes
- `kept_readings`: where hooks leave what they read, for one copy after the forward
- `row_mean`: the mean that reconstructions are measured against
- `row_span`: which rows of a step are a request's
- `edit_cells`: which rows and columns of a step are whose edits
- `step_layout`: whose rows a step has and what is done to each, kept while it does not change
- `step_plan`: rows and wishes of one step, turned into what the hooks read
- `steered_point`: the hook, which reads what was planned and does arithmetic
- `apply`: the arithmetic of a step, on tensors only

Every edit adds a multiple of one direction d to a row: an affine form of the activation z of its feature, or
of the row's projection on d. At each hook point the multiples are one dense table [rows, columns], zero where
nothing is to be done, so that all edits of a step are one matrix product whoever asked for them.
An edit with a condition waits for a lane. Tests read features of a row where they stand, before any edit, and
their outcome is a bit of the row; later at the same or a later hook point the bits open the lane, and a shut
lane makes the multiple zero. What a test or a lane has to remember stays in tensors, by request.
Readings are taken before the edits of their hook point. What policies demand is a second such table, computed
from the rows as the first left them. A step without edits is bit-identical to the plain
model, and so is every row without edits in a step that has some.
"""
