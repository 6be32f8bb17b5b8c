"""Data whose features are known, and how much of them SAEs find.

`truth` states what every such data set gives; `toy_superposition` and `synthetic_features` are two, made of
`directions` and a `feature_tree`. `recovery` scores an SAE. `presets` names data sets with SAEs that suit
them, `learning` trains several side by side, `study` compares them, `table` and `command` print what it
finds.
"""
