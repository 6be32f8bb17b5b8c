"""The sparse autoencoder (SAE) that server and trainer share: what a feature activation is, what its files mean.

- `activation_function`: ReLU, JumpReLU, TopK
- `autoencoder`: `SparseAutoencoder`, one plain form without switches
- `folding`: foreign conventions turned into that plain form
- `metadata`: what is known about an SAE beside its weights
- `config_file`, `weights_file`, `feature_files`: each file of an SAE folder, read with every check
- `sae_file`: the folder, saved whole or not at all

Needs torch and safetensors only, and of steerd only `steerd.errors`.
"""
