"""Upper bounds of the histograms; latencies as in OpenTelemetry's conventions, with longer tails."""

from __future__ import annotations

# fmt: off
TIME_TO_FIRST_TOKEN = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0,
)
TIME_PER_OUTPUT_TOKEN = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5,
)
REQUEST_DURATION = (
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84,
)
RPC_DURATION = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
BATCH_SIZE = (1, 2, 4, 8, 16, 32, 64)
CANCELLATION = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)
STEERING_OVERHEAD = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
DELTA_RATIO = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0)
UNEXPLAINED = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)
ACTIVE_FEATURES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
ACTIVATION_RATIO = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)  # of a feature's recorded maximum
TOKENS = tuple(digit * 10**power for power in range(5) for digit in (1, 2, 5))  # 1 to 50,000
# fmt: on
