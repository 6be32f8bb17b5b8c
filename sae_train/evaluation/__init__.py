"""What is measured of an SAE on held-out tokens.

`evaluation` puts it together and lists every figure: `reconstruction` with its `row_moments` and
`feature_density`, `cross_entropy` with the SAE spliced into the host, and `feature_geometry` with the
one-to-one `matching` of two SAEs' features, which `seed_match` does for folders. `calibration` finds the
serving threshold.
"""
