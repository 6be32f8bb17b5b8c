"""One JSON line at the end of each request that was admitted, by the logger `steerd.requests`."""

from __future__ import annotations

import heapq
import json
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from steerd.config import MonitoringConfig
from steerd.engine.events import FailedEvent, FinishedEvent, LastEvent, StepReport
from steerd.engine.request import GenerationRequest
from steerd.errors import ConfigError, SteerdError
from steerd.monitoring.request_tallies import RequestFeatures
from steerd.steering.intervention import Intervention, operation_name, target_name

_TOP_FEATURES = 10
_FORMAT = "%(message)s"


class RequestLog:
    """Writes to a file or standard error until it is stopped. A part of the monitor.

    Without `decode` no text is written, neither of the prompt nor of what was generated.
    """

    def __init__(
        self, config: MonitoringConfig, *, model: str, decode: Callable[[Sequence[int]], str] | None
    ) -> None:
        """Raises ConfigError when the file cannot be opened."""
        self._model = model
        self._decode = decode
        self._log = logging.getLogger("steerd.requests")
        self._log.propagate = False
        self._log.setLevel(logging.INFO)
        self._handler = _handler(config.request_log)
        self._handler.setFormatter(logging.Formatter(_FORMAT))
        self._log.addHandler(self._handler)

    def stop(self) -> None:
        """Write no more."""
        self._log.removeHandler(self._handler)
        with suppress(OSError):  # what a full disk did not take was counted when it was written
            self._handler.close()

    def step_finished(self, report: StepReport) -> None: ...

    def first_token(self, request: GenerationRequest, seconds: float) -> None: ...

    def request_finished(
        self, request: GenerationRequest, event: LastEvent, features: RequestFeatures | None
    ) -> None:
        record: dict[str, Any] = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "request_id": request.id,
            "rpc": "Score" if request.continuation else "Generate",
            "model": self._model,
        }
        record |= _failed(event, request) if isinstance(event, FailedEvent) else _finished(event, request)
        record |= {"over_threshold": [], "top_features": []} if features is None else _features(features)
        record |= {
            "presets": [str(preset) for preset in request.steering.presets],
            "policies": [str(policy) for policy in request.steering.policies],
        }
        if self._decode is not None:
            record["prompt"] = self._decode(request.prompt_ids)
        # Whatever an id or a text holds is escaped, so that a record is one line.
        self._log.info(json.dumps(record, separators=(",", ":")))


class _StrictFile(logging.FileHandler):
    """A file whose failures are told to who logs: the monitor counts them."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # the library's
        del record
        raise  # the error that is being handled


def _handler(where: str) -> logging.Handler:
    if where == "stderr":
        return logging.StreamHandler()
    try:
        return _StrictFile(where, encoding="utf-8")
    except OSError as error:
        message = f"monitoring.request_log: cannot write {where}: {error.strerror}"
        raise ConfigError(message, key="monitoring.request_log") from error


def _finished(event: FinishedEvent, request: GenerationRequest) -> dict[str, Any]:
    edits = zip(request.steering.numbered, event.receipt.interventions, strict=False)
    return {
        "outcome": event.reason.value,
        "prompt_tokens": event.prompt_tokens,
        "generated_tokens": event.generated_tokens,
        "queue_seconds": round(event.timings.queue_seconds, 6),
        "prefill_seconds": round(event.timings.prefill_seconds, 6),
        "decode_seconds": round(event.timings.decode_seconds, 6),
        "steering": [
            _edit(edit)
            | {
                "rows": receipt.rows,
                "rows_changed": receipt.rows_changed,
                "mean_relative_norm": round(receipt.mean_relative_norm, 6),
            }
            for edit, receipt in edits
        ],
        "triggers": [asdict(fired) for fired in event.receipt.fired],
        "switched": None if event.receipt.switched is None else asdict(event.receipt.switched),
    }


def _failed(event: FailedEvent, request: GenerationRequest) -> dict[str, Any]:
    reason = event.error.reason if isinstance(event.error, SteerdError) else "INTERNAL"
    return {
        "outcome": "failed",
        "error": reason,
        "prompt_tokens": len(request.prompt_ids),
        "steering": [_edit(edit) for edit in request.steering.numbered],
    }


def _edit(edit: Intervention) -> dict[str, Any]:
    return {
        "target": target_name(edit.target),
        "operation": operation_name(edit.operation),
        "source": edit.source,
    }


def _features(features: RequestFeatures) -> dict[str, Any]:
    """The watched features over their thresholds, and the strongest of the sampled tokens."""
    over = [
        {
            "sae": feature.sae,
            "feature": feature.index,
            "alias": feature.alias,
            "tokens": int(features.over[position]),
            "max": round(float(features.largest[position]), 4),
        }
        for position, feature in enumerate(features.watch.features)
        if features.over[position]
    ]
    active = ((value, sae, index) for sae, top in features.top.items() for index, value in top.items())
    strongest = heapq.nlargest(_TOP_FEATURES, active)
    top = [{"sae": sae, "feature": index, "max": round(value, 4)} for value, sae, index in strongest]
    return {"over_threshold": over, "top_features": top}
