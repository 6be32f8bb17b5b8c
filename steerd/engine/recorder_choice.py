"""Whether decode steps are recorded: as asked, where device and layers allow it and a trial agrees."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from steerd.engine.host_check import check_packed_steps
from steerd.engine.recorded_steps import CudaRecorder, Recorder
from steerd.errors import ConfigError, HostError
from steerd.host.host_model import HostModel

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RecorderChoice:
    """A recorder, or why there is none."""

    recorder: Recorder | None
    why_not: str


def choose_recorder(setting: str, host: HostModel, recorder: Recorder | None = None) -> RecorderChoice:
    """What `engine.cuda_graphs` comes to on this host, off, auto or on; `recorder` instead of CUDA's.

    Each kind of recorded step is tried against the plain forward. With auto whatever stands against it is a
    reason to do without; with on it is a ConfigError.
    """
    if setting == "off":
        return RecorderChoice(None, "engine.cuda_graphs is off")
    if recorder is None and host.device.type != "cuda":
        why_not = f"the host is on {host.device}, and only CUDA devices record steps"
    else:
        recorder = recorder or CudaRecorder(host.device)
        why_not = _why_it_fails(host, recorder)
    if not why_not:
        return RecorderChoice(recorder, "")
    if setting == "on":
        raise ConfigError(f"engine.cuda_graphs is on, but {why_not}", key="engine.cuda_graphs")
    if host.device.type == "cuda":
        _log.warning("decode steps are not recorded: %s", why_not)
    return RecorderChoice(None, why_not)


def _why_it_fails(host: HostModel, recorder: Recorder) -> str:
    try:
        check_packed_steps(host, recorder)
    except HostError as error:
        return str(error)
    return ""
