"""From token blocks to batches of activations.

- `run_corpus`: what the run's data section says of blocks and cache
- `host_activations`: blocks through the host, stopped after the last hook point
- `harvest` runs the corpus through it once into an `activation_cache` of whole shards (`shard`), which
  several processes may share (`claims`)
- `activation_scale` measures the rows once
- `training_data` is what a run trains on, cached or live; `training_stream` makes it chunks (`row_chunk`)
  pass after pass, `prefetch` one ahead; `mixing_buffer` shuffles them into batches
- `held_out` reads the cache's held-out part
- `seeds` gives each use of chance a generator of its own
"""
