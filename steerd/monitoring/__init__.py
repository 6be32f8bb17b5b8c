"""What is told to people: the Prometheus series, their number bounded in code.

- `metrics`: every series, fed by the engine's reports
- `feature_summary`: what a feature did over one request

Request ids and text from clients never become labels.
"""
