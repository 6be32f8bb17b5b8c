"""The language model that server and trainer share: where it is read and steered, how text becomes ids.

- `hook_point`: `HookPoint`, a layer and a site, printed `blocks.5.hook_resid_post`
- `host_model`: `HostModel`, loaded by alias, folder or hub id; nobody else touches a torch hook
- `giving_way`: forwards that are given up between two layers when something else is wanted more
- `decoder_layers`, `sublayers`, `residual_stream`: how it finds them, by experiment and not by names
- `skipped_layers`: forwards that begin after a layer whose output is known; `known_streams` keeps it
- `unembedding`: from rows of the stream to logits, by the host's own code after its last layer
- `loading`: from such a name to a model and a tokenizer in memory; `quiet` keeps libraries silent meanwhile
- `int8_head`: the head in 8 bits, on the CPU
- `device_memory`: what it takes of its device's memory
- `default_host`: the model that comes with the package, converted once into the cache (`cache_folder`)
- `text`: prompts and chats to token ids, generated ids back to text as they come
- `token_texts`: ids as text one by one, also where a character is cut into several tokens
- `output_tokens`: the tokens whose logits a direction raises and lowers
- `chat_roles`: which tokens of a prompt are the content of which message

A hook sees rows: one token position's vector each, whatever the batch looks like. A hook that returns None
leaves the forward bit-identical.
"""
