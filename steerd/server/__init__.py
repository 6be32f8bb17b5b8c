"""The gRPC edge: the only reader and writer of protobuf.

A Generate call passes, in this order:
- `rpc_guard`: around every RPC; undecodable bytes, the failures' statuses, the counts
- `generation_service`: one request's life: parse, submit, stream, cancel
- `parse`: wire -> `GenerationRequest`, or every broken rule at once
- `parse_prompt`, `parse_sampling`: what is asked of the host, and where the messages of a chat stand
- `parse_steering`: all that steers it: its own interventions, the presets that it names, and policies
- `parse_interventions`: edits, each against what is served; `parse_target`,
  `parse_magnitude` (units), `parse_scope` (scopes, schedules) and `parse_condition` are its parts
- `parse_trigger`: what happens when features fire
- `edit_conflicts`: the edits that come together, against each other
- `policy`: what the operator's policies make of it; `allowance` is what they allow to be asked for
- `dose`: how much the interventions can add, against the operator's limit
- `idle_edits`: those that no row can get, for a warning
- `parse_capture`: what is read
- `violations`: the collector of broken rules
- `event_stream`: from the engine's thread to this request's coroutine, bounded
- `reply`: events -> wire; `reply_reading` tells of activations, `reply_baseline` of the unsteered twin,
  `reply_finish` why either ended
- `scoring`: a Score call, with `parse_score` and `reply_score`
- `slow_reader`: what becomes of a client that takes nothing
- `stop_text`: holds text back while it may be the start of a stop string

A study passes `feature_service` and `feature_answers`, which has all that answers for one set of SAEs, then:
- `text_studies`: those of given texts
- `parse_study`: what the requests of all studies share; `parse_encode`, `parse_contrast`,
  `parse_attribution` and `parse_feature_search`, what each has of its own
- `steered_studies`: those of one text under steering; `parse_steered` is what their requests share,
  `parse_lens`, `parse_trace`, `parse_effects` and `parse_answers` what each has of its own, `answer_rules`
  what the last may try; `parse_token`, a token by its name
- `dose_studies`: how strongly to steer; `parse_evaluate` reads what is asked, `dosing` tries each strength by
  the requests that `dose_requests` makes, with the texts of `dose_texts` and next to `control_features`;
  `parse_outputs`, which features say something; `parse_special_tokens`, which features special tokens have
- `studying`: one study's life: begin, progress, stop, result
- `study_stream`: from the engine's thread to this study's coroutine
- `composed_study`: studies that are made of requests and of other studies; `engine_texts` runs these
- `study_cache`: results by what they depend on
- `feature_lookup`: the short questions, which are no streams

Beside it:
- `served`: SAEs with the presets, policies and parsers made for them; `sae_reloader` puts others in place
- `sae_message`: a served SAE on the wire
- `late_services`: what is served later than it is announced
- `admission`: who is being served, and nobody new while draining
- `preset_book`: the presets by name and version
- `preset_tables`, `policy_book`: presets and policies of the configuration, read by the rules of a request,
  for which there is `steering_tables`
- `catalog_service`: what is served here
- `monitor_service`: what features do now
- `admin_service`: what an operator changes while the server runs
- `watch_keeper`: the server's watch list, and who reads and counts it; `watch_file` keeps it on disk
- `status`: the table from kinds of failure to gRPC statuses with their details
- `edge_observer`: what the edge tells the metrics
- `grpc_server`: bind, health, reflection, drain

Nothing here waits for torch: the engine's thread owns it, and the two meet in `event_stream`.
"""
