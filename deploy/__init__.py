"""What stands around a running server.

- `monitoring`: starts Prometheus and Alertmanager with the files below, for `make monitoring`
- prometheus/: scrape config, recording rules, alert rules and the rules' tests
- alertmanager/: where alerts go
- grafana/: the dashboard, and the files that provision it
- docker/: the configuration of the image
"""
