"""The trainable SAEs: `trainable_sae` (what they share), `batch_topk`; sparse products in `sparse_code`."""
