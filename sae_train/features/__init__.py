"""Every feature described: `feature_observations` (one pass), `feature_notes` (words), `feature_pages`."""
