"""Studies: what features do and why, computed on the host and its SAEs in slices between the engine's steps.

Each study is a class that satisfies `steerd.engine.study.Study`, made from host, SAEs and a wish: a frozen
dataclass that is valid already and holds token ids, never text. Results are plain data in modules without
torch, which the client and the command line read too.

- `text_batches`: many texts as padded forwards of a size
- `encoding`: what features do on each token of given texts; `encoded_tokens` is what it tells
"""
