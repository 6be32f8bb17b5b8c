from steerd.pb.v1 import feature_pb2 as _feature_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetServerInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetServerInfoResponse(_message.Message):
    __slots__ = ("version", "model", "limits", "watched_features")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    WATCHED_FEATURES_FIELD_NUMBER: _ClassVar[int]
    version: str
    model: HostModel
    limits: Limits
    watched_features: _containers.RepeatedCompositeFieldContainer[WatchedFeature]
    def __init__(self, version: _Optional[str] = ..., model: _Optional[_Union[HostModel, _Mapping]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., watched_features: _Optional[_Iterable[_Union[WatchedFeature, _Mapping]]] = ...) -> None: ...

class HostModel(_message.Message):
    __slots__ = ("name", "d_model", "num_layers", "vocab_size", "max_context", "dtype", "device", "content_hash", "has_chat_template")
    NAME_FIELD_NUMBER: _ClassVar[int]
    D_MODEL_FIELD_NUMBER: _ClassVar[int]
    NUM_LAYERS_FIELD_NUMBER: _ClassVar[int]
    VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_CONTEXT_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    CONTENT_HASH_FIELD_NUMBER: _ClassVar[int]
    HAS_CHAT_TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    name: str
    d_model: int
    num_layers: int
    vocab_size: int
    max_context: int
    dtype: str
    device: str
    content_hash: str
    has_chat_template: bool
    def __init__(self, name: _Optional[str] = ..., d_model: _Optional[int] = ..., num_layers: _Optional[int] = ..., vocab_size: _Optional[int] = ..., max_context: _Optional[int] = ..., dtype: _Optional[str] = ..., device: _Optional[str] = ..., content_hash: _Optional[str] = ..., has_chat_template: _Optional[bool] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_new_tokens", "default_max_new_tokens", "max_prompt_characters", "max_interventions", "max_watched_features", "max_top_k", "max_stop_strings", "max_stop_characters", "max_magnitude", "max_request_seconds")
    MAX_NEW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_MAX_NEW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_PROMPT_CHARACTERS_FIELD_NUMBER: _ClassVar[int]
    MAX_INTERVENTIONS_FIELD_NUMBER: _ClassVar[int]
    MAX_WATCHED_FEATURES_FIELD_NUMBER: _ClassVar[int]
    MAX_TOP_K_FIELD_NUMBER: _ClassVar[int]
    MAX_STOP_STRINGS_FIELD_NUMBER: _ClassVar[int]
    MAX_STOP_CHARACTERS_FIELD_NUMBER: _ClassVar[int]
    MAX_MAGNITUDE_FIELD_NUMBER: _ClassVar[int]
    MAX_REQUEST_SECONDS_FIELD_NUMBER: _ClassVar[int]
    max_new_tokens: int
    default_max_new_tokens: int
    max_prompt_characters: int
    max_interventions: int
    max_watched_features: int
    max_top_k: int
    max_stop_strings: int
    max_stop_characters: int
    max_magnitude: float
    max_request_seconds: float
    def __init__(self, max_new_tokens: _Optional[int] = ..., default_max_new_tokens: _Optional[int] = ..., max_prompt_characters: _Optional[int] = ..., max_interventions: _Optional[int] = ..., max_watched_features: _Optional[int] = ..., max_top_k: _Optional[int] = ..., max_stop_strings: _Optional[int] = ..., max_stop_characters: _Optional[int] = ..., max_magnitude: _Optional[float] = ..., max_request_seconds: _Optional[float] = ...) -> None: ...

class WatchedFeature(_message.Message):
    __slots__ = ("feature", "alias", "threshold")
    FEATURE_FIELD_NUMBER: _ClassVar[int]
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    feature: _feature_pb2.FeatureRef
    alias: str
    threshold: float
    def __init__(self, feature: _Optional[_Union[_feature_pb2.FeatureRef, _Mapping]] = ..., alias: _Optional[str] = ..., threshold: _Optional[float] = ...) -> None: ...

class ListSaesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListSaesResponse(_message.Message):
    __slots__ = ("saes",)
    SAES_FIELD_NUMBER: _ClassVar[int]
    saes: _containers.RepeatedCompositeFieldContainer[Sae]
    def __init__(self, saes: _Optional[_Iterable[_Union[Sae, _Mapping]]] = ...) -> None: ...

class Sae(_message.Message):
    __slots__ = ("name", "hook_point", "d_model", "d_sae", "architecture", "model_name", "weights_sha256", "has_statistics")
    NAME_FIELD_NUMBER: _ClassVar[int]
    HOOK_POINT_FIELD_NUMBER: _ClassVar[int]
    D_MODEL_FIELD_NUMBER: _ClassVar[int]
    D_SAE_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_SHA256_FIELD_NUMBER: _ClassVar[int]
    HAS_STATISTICS_FIELD_NUMBER: _ClassVar[int]
    name: str
    hook_point: str
    d_model: int
    d_sae: int
    architecture: str
    model_name: str
    weights_sha256: str
    has_statistics: bool
    def __init__(self, name: _Optional[str] = ..., hook_point: _Optional[str] = ..., d_model: _Optional[int] = ..., d_sae: _Optional[int] = ..., architecture: _Optional[str] = ..., model_name: _Optional[str] = ..., weights_sha256: _Optional[str] = ..., has_statistics: _Optional[bool] = ...) -> None: ...
