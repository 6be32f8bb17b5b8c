"""What pushes a right and a wrong answer to a prompt, and what little turns the one into the other.

- `wish`: what a client asks for; `result`: what it is told; both as data
- `study`: the study, `ComparingAnswers`: score, predict, ablate, search
- `pushing_features`: what gradients say is worth being tried
- `answer_meter`: how likely both answers are under sets of interventions
- `flip_tries`: what was tried to make the right answer win; `flip_search` says what to try next
- `operator_rules`: what may be tried at all, and what was left out
- `control_effects`: what the set does to other texts
- `last_rows`: steered texts up to the host's head, and their logits
"""
