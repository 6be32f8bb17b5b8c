"""Who runs when, and the step itself. One thread owns the model; text and protobuf are not known here.

- `request`: a request that cannot be wrong, in token ids
- `events`: what the engine tells to a request's stream and to the metrics
- `engine`: the thread and its loop; submit, cancel, drain
- `waiting_line`: where other threads meet it
- `running_request`: the progress of one request
- `readings`: what a step read from the SAEs, on its way to events
- `sampler`: logits to next tokens, every request with its own temperature, filters and seed
- `kv_cache`: keys and values of the running requests
- `paged_attention`: attention of a packed step, request by request
- `host_check`: whether a host can be batched at all, tried out at start
- `continuous_batching`: transformers' batching, a step at a time; it and `kv_cache` alone know its internals
"""
