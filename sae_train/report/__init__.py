"""One self-contained HTML page an SAE: `sae-train report`.

- `make_reports`: the command; `surplus`: what the host and the activation cache add
- `run_files`: which SAEs a path names, the run's log, evaluation cards
- `report`: the page put together
- `training_curves`, `frontier`, `feature_columns`: the numbers of its charts and of the feature table
- `record_rows`: steerd.json as tables, with `metric_words`
- `described_features`: each feature's own page; `feature_details` fits them into a bound
- `page`: the template in `page/` filled, as one file under a content security policy
- `script_json`, `token_table`, `visible_text`: texts of corpora made harmless and small
"""
