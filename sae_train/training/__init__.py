"""The training loop: `trainer`, with `firing_record`, `schedules`, `checkpoint` and `run_log`."""
