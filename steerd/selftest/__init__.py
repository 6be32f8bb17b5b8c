"""Whether steering works here: the loaded host and SAEs through the real engine, against the plain host.

- `configured`: as a server's config asks for it
- `selftest`: the whole of it, from host and SAEs to a report
- `texts`: the texts it runs on, as token ids
- `probes`: a question, to the plain host and to the engine alike
- `plain_rows`: what the plain host's residual stream is on a text, which the probes are made from
- `places`: the features and directions that they are about
- `steered_probes`: interventions of every kind, on every SAE, each strong enough to be seen
- `triggered_probes`: what fires, what ends the text, what is switched to
- `naive_hook`: steering in its plainest form, row by row
- `probe_set`: all probes together
- `naive_record`: what it did
- `naive_rows`: on which rows, and how strongly there
- `references`: what the plain host says of the probes; taken before an engine takes the host over
- `studied_probe`: a probe as a study beside the engine's steps
- `gaps`: how far receipts and firings are from what they should be
- `engine_client`: the same questions to an engine
- `checks`: engine against plain host, and engine against itself
- `sae_fit`: whether the SAEs read what they were trained on
- `report`: what each check found beside its bound
"""
