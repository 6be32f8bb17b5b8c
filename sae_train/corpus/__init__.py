"""From files and hub data sets to what the host reads.

- `source`: what a source's configuration holds
- `text_files`, `tables`: the lines and rows of local files and of the Hugging Face hub
- `records`: a line or a row as a document, by stated rules; `reading`: a source as a stream of documents
- `documents`: texts and conversations, their order and their split into training and held out
- `chat_templates`, `tokenised`: documents as token ids, conversations through the host's template
- `token_blocks`: ids as sequences for the host, in each data mode; `corpus_stream`: a run's sources, mixed
- `deduplication`: copies and near-copies left out, by `word_grams` in a `gram_index` over a `hash_set`;
  `document_files`: documents as a file
- `counts`: what became of the documents, none left out
"""
