"""Labels tested on texts that no SAE was trained on.

- `held_out_windows`: the held-out split in windows, and which features are active in each
- `word_detection`: how well a label's own words tell them apart; needs nobody to judge
"""
