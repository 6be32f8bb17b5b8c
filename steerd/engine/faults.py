"""What failed requests fell to, where that has a metric of its own."""

from __future__ import annotations

from enum import Enum

import torch

from steerd.engine.request import GenerationRequest
from steerd.errors import FieldViolation, InvalidRequest

_CPU_ALLOCATOR = "can't allocate memory"


class Fault(Enum):
    """Logits that are not finite, of a request that steers or of none; memory that ran out, and when."""

    LOGITS = "logits"
    STEERED_LOGITS = "steered_logits"
    NO_MEMORY_ADMISSION = "admission"
    NO_MEMORY_PREFILL = "prefill"
    NO_MEMORY_DECODE = "decode"


NO_MEMORY = (Fault.NO_MEMORY_ADMISSION, Fault.NO_MEMORY_PREFILL, Fault.NO_MEMORY_DECODE)
NON_FINITE = (Fault.LOGITS, Fault.STEERED_LOGITS)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out; on the CPU torch has no class of its own for that."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and _CPU_ALLOCATOR in str(error)


def non_finite(request: GenerationRequest) -> tuple[Exception, Fault]:
    """A host's logits are finite, so steering too strong for it is the likely reason."""
    if not request.steering.numbered:
        return RuntimeError(f"the host gave non-finite logits for request {request.id}"), Fault.LOGITS
    return too_strong("the host's logits"), Fault.STEERED_LOGITS


def too_strong(what: str) -> InvalidRequest:
    """The refusal of interventions that the host cannot bear."""
    description = f"steered so strongly that {what} are no longer finite"
    return InvalidRequest([FieldViolation("interventions", description)])
