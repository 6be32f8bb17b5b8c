"""From a finished run to an SAE folder: `export` folds, compares and saves, `provenance` says how."""
