"""From files to what the host reads.

`source` (a source's configuration), `documents` (texts and chats), `token_blocks` (sequences of ids).
"""
