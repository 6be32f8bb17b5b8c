"""Every feature described, from a pass over cached training rows.

- `observed_rows`: the pass: kept rows in batches, with token, source and place
- `feature_observations`: counts, sums, squared activation by token and by source
- `largest_places`: the strongest places of every feature, or a random sample of them
- `feature_contexts`: places read back as tokens around them, with the feature's activations
- `token_texts`: token ids as text, also where a character is cut into several tokens
- `output_tokens`: the tokens whose logits a direction raises and lowers
- `nearest_features`: the features whose directions point most alike
- `feature_notes`: labels, all from counts
- `feature_pages`: statistics and notes as an export writes them
- `feature_evidence`: histograms and many contexts, as a report shows them
"""
