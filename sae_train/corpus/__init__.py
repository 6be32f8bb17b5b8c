"""From files to what the host reads: `documents` (texts and chats), `token_blocks` (sequences of ids)."""
