"""Other people's SAE files brought into steerd's folder: the command `sae-train import`.

- `import_sae`: chooses the layout, reads, folds, writes the folder and loads it again
- `layout`: what a layout is, and the options of the command
- `foreign_sae`: an SAE in our names with its conventions, and their folding into the plain form
- `hook_names`: where an SAE reads, from the names that others use
- `source`: the files that the user named; below it `stored_tensors` (and safetensors), `npz_file` and
  `torch_file`, the only reader of `.pt` files in the project

One file a layout: `saelens` with `saelens_config`, `gemma_scope`, `sparsify`, `dictionary_learning`,
`openai`, `llama_scope`, and `single_files` (Qwen Scope, Goodfire). What has no exact plain form is refused.
"""
