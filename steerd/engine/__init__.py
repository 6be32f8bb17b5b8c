"""Who runs when, and the step itself. One thread owns the model; text and protobuf are not known here.

- `request`: a request that cannot be wrong, in token ids
- `events`: what the engine tells to a request's stream and to the metrics
- `engine`: the thread and its loop; submit, cancel, study, drain
- `entrance`: who gets in
- `step`: one step: plan, run, tell
- `waiting_line`: where other threads meet the engine's
- `running_request`: the progress of one request
- `running_requests`: all that run, what they hold and how they end
- `faults`: what failed requests fell to
- `guarded_observer`: an observer that may fail
- `watch_list`: the features that the server watches on every token
- `readings`: what a step read from the SAEs, on its way to events
- `tally`: what the features of the running requests did so far
- `edit_tally`: what their edits did so far
- `triggers`: which features fired, and what is to come of it
- `twins`: a steered request and its unsteered baseline in one stream
- `study`: what work beside generation is; `study_line`: those under way, a slice each between two steps
- `steered_forward`: whole texts beside the steps, for studies, steered as requests are
- `scored`: how likely given tokens are
- `sampler`: logits to next tokens, every request with its own temperature, filters and seed
- `kv_cache`: keys and values of the running requests
- `prefix_pages`: prompt pages in memory, by a hash of their tokens and of what was done to them
- `paged_attention`: attention of a packed step, request by request
- `host_check`: whether a host can be batched at all, tried out at start
- `continuous_batching`: transformers' batching, a step at a time; it and `kv_cache` alone know its internals
"""
