from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class FeatureRef(_message.Message):
    __slots__ = ("sae", "index")
    SAE_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    sae: str
    index: int
    def __init__(self, sae: _Optional[str] = ..., index: _Optional[int] = ...) -> None: ...
