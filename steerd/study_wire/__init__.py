"""Studies on the wire: what a client asks and what a server answers, to protobuf and back, for both of them.

- `study_text`: texts, and how far a study is
- `encode`: Encode
- `contrast`: ContrastFeatures
"""
