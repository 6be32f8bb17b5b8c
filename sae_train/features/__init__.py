"""Every feature described, from a pass over cached training rows.

- `observed_rows`: the pass: kept rows in batches, with token, source and place
- `feature_observations`: counts, sums, squared activation by token and by source
- `largest_places`: the strongest places of every feature, by any key
- `sampled_places`: some places of every feature over the whole order of its activations
- `feature_contexts`: places read back as tokens around them, with the feature's activations
- `feature_notes`: labels, all from counts
- `feature_pages`: statistics and notes as an export writes them
- `feature_evidence`: histograms and many contexts, as a report shows them
"""
