"""Which features of a prompt move what the host answers: predicted, tested by taking them out, and connected.

- `wish`: what a client asks for; `metric`: the number that is explained; both as data
- `result`: what it is told, as data
- `study`: the study, `Attributing`: predict all, choose some, measure, connect
- `scored_prompt`: forwards of copies of the prompt with edited rows, and the metric of each
- `active_features`: rows as decode(z) + error
- `node_effects`: the predicted effect of every node by a method, of which `gradients` is the forward and
  backward, `integrated_gradients` and `direct_effects` are two more ways
- `node_choice`: the strongest nodes, and controls
- `ablation`: measured effects; `check`: how well predictions agree with them, by `rank_correlation`
- `direct_edges`: gradients between nodes past all others; `connections`: all edges; `graph_pruning`: which
  of them are kept
- `findings`: what was found so far, as a result

Nodes are features, one error a row and SAE, and embeddings. No SAE is spliced in: every gradient is that of
the host itself, and an effect is that of taking a node's part out of its row, x - z * d.
"""
