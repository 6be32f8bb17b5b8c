"""The sparse autoencoder (SAE) that server and trainer share: what an activation is, what a file means.

- `activation_function`: ReLU, JumpReLU, TopK
- `autoencoder`: `SparseAutoencoder`, one plain form without switches
- `folding`: other conventions turned into that plain form
- `nearest_features`: the features whose directions point most alike
- `feature_label`: what a feature is said to stand for, and how far that was found true
- `feature_note`: what a person reads about one feature, its label and contexts
- `feature_search`: the features that words ask for, ranked
- `sae_file`: an SAE folder, loaded with every check, saved whole or not at all; its parts are
  `config_file` (cfg.json), `feature_files` (statistics and notes), and below them `tensor_file`
  (safetensors), `json_file` and `whole_folder`

Needs torch and safetensors only, and of steerd only `steerd.errors`.
"""
