"""The subcommands of `steerd`, one module each; each adds its own parser and runs itself.

- `serve`: the server
- `selftest`: whether steering works with its host and SAEs on this machine
- `generate`: one steered generation, streamed to the terminal
- `score`: how likely given continuations are, steered and not
- `encode`: what features do on texts, token by token
- `saes`, `features`: what a server has loaded; what the features of an SAE stand for
- `presets`: the steering that a server's operator has prepared, and the policies in force
- `watch`: the features that a server exports as metrics
- `top`: the features that are above their usual strength on a server now
- `attribute`: the features that move what the host answers
- `lens`: what the host would predict after each layer
- `trace`: the features that are active at some tokens, in the SAEs of all layers
- `effects`: what ablating features changes for each token of a text, also as a page (`effect_page`)
- `rank`: which features to steer by; `dose`: how strongly; `special_tokens`: those of a chat's markers
- `contrast`: the features that tell two sets of texts apart
- `compare`: what pushes a right and a wrong answer, and what makes the right one win
- `health`: exit status 0 if a server serves
- `demo`: all of it, by itself

What they share:

- `arguments`: `sae:feature=strength` and the like
- `condition_options`: options for what depends on features
- `steering_options`: what is steered, where and for how long
- `stream`: one generation, printed while it comes
- `token_painter`: text coloured by a feature's activation
- `text_files`: texts and chats from files
- `answer_tables`: what compare prints
- `fired_lines`: triggers that fired
- `steered_text`: one text with what steers it
- `study_progress`: how far a study is
- `terminal`: the consoles they print to
- `tables`: readings and summaries as tables
- `feature_pages`: features as a table or a page; `feature_folders`: what SAE folders tell without a server
- `server_process`: a server as a child process
- `attribution_page`, `graph_layout`: an attribution as a page, and where its nodes stand there
- `attribution_graph`: its graph as a file for other viewers
- `label_text`: labels with their scores, as text
- `labels`: what the features of a server stand for
"""
