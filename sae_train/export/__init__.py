"""From a finished run to an SAE folder.

- `served_form` folds, rounds and calibrates, and compares the result with what was trained
- `export` measures, describes and saves it; `provenance` is what its steerd.json says
"""
