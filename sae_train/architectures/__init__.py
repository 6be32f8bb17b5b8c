"""The trainable SAEs: `batch_topk`, with its sparse products in `sparse_code`."""
