"""What operators see: Prometheus series, `steerd_*` and, for public dashboards, `grpc_server_*`.

- `monitor`: `Monitor`, the engine's observer: a bounded queue and the thread that tells the parts
- `request_tallies`: what the features of each running request did so far
- `activity`: what the watched features do now, for whoever watches
- `request_log`: a JSON line at each request's end
- `traces`: whether spans are sent; `request_spans`: who sends them; `span_attributes`: what they say
- `metrics`: `Metrics`, the part that keeps the series, and the edge's observer
- `rpc_metrics`: calls, outcomes, rejections
- `engine_metrics`: requests, tokens, latencies, steps
- `sae_metrics`: aggregates per SAE; `sae_load_metrics`: loads and reloads, and what is served
- `watched_metrics`: counters for the watch list, histograms for the hot features in it
- `series_budget`: how many series there may be, and what a watch list costs
- `exemplars`: from a count to the request behind it
- `memory_limit`: how much memory the process may take
- `buckets`: the histograms' bounds
- `openmetrics_text`: the series as Prometheus reads them, fast
- `scrape_endpoint`: /metrics over HTTP, and the live page
- `live_page`: the page at / and its JSON; `recent_samples`: the last minutes that it shows
- `last_request`: the tokens of the last request, for the page where it may show text
- `top_features`: the features that are most above their usual strength now

Nothing a client sends becomes a label, so the number of series is known: it changes with the watch list
alone, which is refused when it would be too many. Label children are made once, not where they are counted.
"""
