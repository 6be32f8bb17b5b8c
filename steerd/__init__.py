"""Steer and watch a language model through sparse autoencoders (SAEs), over gRPC.

Packages, in the order in which a request meets them:

- `server`: the gRPC edge, the only place that sees protobuf (`pb` is generated from protos/)
- `engine`: who runs when, and the step itself; token ids only
- `steering`: what is to be done at a hook point
- `host`: the language model that is read and steered
- `sae`: what a sparse autoencoder is, and its files
- `monitoring`: what is told to people, as Prometheus metrics
- `studies`: what features do and why, worked out beside generation; `study_wire` is how that is asked and
  told
- `selftest`: whether steering works here, tried out on host, SAEs and engine before any request

Modules:

- `app`: the one place where host, SAEs, engine, metrics and server meet
- `instruments`: what measures a server, and is told of what it loaded
- `passing_thread`: the thread in which they are made, and SAEs reloaded; it ends with that
- `config`: every setting of the server, frozen; `config_file` reads them from TOML
- `loading`: the host and the SAEs that it names, from disk
- `starters`: where the SAEs lie that come with the package, in starter_saes
- `errors`: the kinds of failure that a user can act on
- `client`: a small typed client, used by `cli` (the subcommands), the tests and the benchmarks;
  `client_messages` is what it says and hears, `client_views` what it sees of a server beside, as plain data;
  `client_wire` and `client_views_wire` turn that into protobuf and back
- `feature_client`: the client of the studies; `client_channel` is the connection of both
- `condition_wire`: conditions and triggers to protobuf and back
- `intervention_wire`: interventions to protobuf, for the client that asks and the server that repeats them
- `receipt_wire`: receipts of what steering did, to protobuf and back
- `__main__`: the command `steerd`

Imports point one way, `app -> server -> engine -> steering -> {sae, host}`; tests/test_architecture.py holds
the table. Importing this package imports nothing else.
"""
