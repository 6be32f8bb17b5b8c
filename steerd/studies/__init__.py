"""Studies: what features do and why, computed on the host and its SAEs in slices between the engine's steps.

Each study is a class that satisfies `steerd.engine.study.Study`, made from host, SAEs and a wish: a frozen
dataclass that is valid already and holds token ids, never text. Results are plain data in modules without
torch, which the client and the command line read too.

- `text_batches`: many texts as padded forwards of a size; `text_reading`: a study's slices of these
- `encoding`: what features do on each token of given texts; `encoded_tokens` is what it tells
- `contrast`: which features differ between two sets of texts; `contrast_table` is what it tells
- `text_activity`: what features did in many texts, where they fired
- `half_comparison`: both sets compared in a half of their texts
- `found_features`: what was found in one half, measured again in the other
- `two_sets`: whether values of two sets of texts differ, feature by feature
- `false_discovery`: p-values of many tests at once
- `describing`: one feature, its output tokens and neighbours; `feature_page` is what it tells
- `nearest`, `text_search`: features near a direction, or that fire on texts; they tell `feature_matches`
- `known_features`: what the SAEs' files tell of features, searched by words
- `special_tokens`: which features fire on special tokens; `special_token_table` is what it tells
- `output_score`: how much a feature says; `output_ranking` ranks many, `output_table` is what it tells
- `next_tokens`: what steering does to the next token, by `next_token_reader`
- `dose_curve`: what steering does at each strength, and which to take
- the package `attribution`: which features move a metric of a prompt's logits
- `logit_lens`: what the host would predict after each layer; `lens_table` is what it tells
- `trace`: which features are active at some tokens, in every SAE; `trace_table` is what it tells
- `token_effects`: how likely each token is when a feature is ablated; `effect_table` is what it tells
- `applied_steering`: what steered the text of a study
- the package `answers`: what pushes two answers to a prompt, and what makes the right one win
"""
