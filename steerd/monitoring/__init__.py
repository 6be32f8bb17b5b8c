"""What operators see: Prometheus series, `steerd_*` and, for public dashboards, `grpc_server_*`.

- `metrics`: `Metrics`, the one observer that the edge and the engine talk to
- `rpc_metrics`: calls, outcomes, rejections
- `engine_metrics`: requests, tokens, latencies, steps
- `feature_metrics`: SAE features in two tiers, aggregates per SAE and counters for the watch list
- `buckets`: the histograms' bounds
- `scrape_endpoint`: /metrics over HTTP

Nothing a client sends becomes a label, so the number of series is known at the start. Label children are made
once, in the constructors: the observers run on the engine's thread and on the event loop, and only count.
"""
