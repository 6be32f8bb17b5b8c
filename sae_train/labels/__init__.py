"""Labels tested on texts that no SAE was trained on, and better ones written.

- `held_out_windows`: the held-out split in windows, and which features are active in each
- `word_detection`: how well a label's own words tell them apart; needs nobody to judge
- `label_contexts`: windows of one feature, to write a label from and others to test it on
- `marked_text`: windows as a judge reads them; `prompts`: what it is asked, and its answers read
- `judge`: a language model that answers: `endpoint` over HTTP, `host_judge` in this process
- `label_tests`: a label tested by detection and fuzzing, contexts rated by a rubric
- `labelling`: features given to a judge one by one, `journal` so that nothing is asked twice
- `label_folder`: all of it for an SAE folder; `label_options`: the command's; `label_summary`: its answer
"""
