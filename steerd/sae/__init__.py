"""The sparse autoencoder (SAE) that server and trainer share: what an activation is, what a file means.

- `activation_function`: ReLU, JumpReLU, TopK
- `autoencoder`: `SparseAutoencoder`, one plain form without switches
- `folding`: other conventions turned into that plain form
- `sae_file`: an SAE folder, loaded with every check, saved whole or not at all; its parts are
  `config_file` (cfg.json), `feature_files` (statistics and notes), and below them `tensor_file`
  (safetensors), `json_file` and `whole_folder`

Needs torch and safetensors only, and of steerd only `steerd.errors`.
"""
