"""The engine: one thread that owns the host, the cache and every running request."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import Any

import torch

from steerd.config import EngineConfig
from steerd.engine.continuous_batching import ContinuousBatch
from steerd.engine.entrance import Entrance
from steerd.engine.events import EngineObserver, FailedEvent
from steerd.engine.guarded_observer import GuardedObserver
from steerd.engine.host_check import check_packed_steps
from steerd.engine.recorded_steps import Recorder
from steerd.engine.recorder_choice import choose_recorder
from steerd.engine.request import FinishReason, GenerationRequest
from steerd.engine.running_requests import RunningRequests
from steerd.engine.steered_forward import SteeredForward
from steerd.engine.step import Step
from steerd.engine.study import DeliverStudy, Study
from steerd.engine.study_line import StudyJob, StudyLine
from steerd.engine.study_pace import StudyPace
from steerd.engine.waiting_line import Deliver, Submission, WaitingLine
from steerd.engine.watch_list import WatchList
from steerd.errors import FieldViolation, InvalidRequest, Unavailable
from steerd.host.host_model import HostModel
from steerd.steering.loaded_saes import LoadedSaes
from steerd.steering.room import Room
from steerd.steering.step_plan import StepPlanner

_log = logging.getLogger(__name__)


class Engine:
    """Runs requests together, a step at a time, each with its own steering, readings and sampling; and
    studies between the steps.

    `submit`, `study` and what ends them may be called from any thread. Events are delivered on the engine
    thread through each one's `deliver`, which must not block; the engine never waits for a client.
    """

    def __init__(
        self,
        host: HostModel,
        saes: LoadedSaes,
        config: EngineConfig,
        observer: EngineObserver,
        sample_every: int = 0,
        *,
        recorder: Recorder | None = None,
    ) -> None:
        """Take over the host.

        Raises HostError when it cannot be batched, ConfigError when steps must be recorded and cannot be.

        Each `sample_every`-th token is encoded whole (0: none). `recorder` is used instead of CUDA's.
        """
        check_packed_steps(host)
        graphs = choose_recorder(config.cuda_graphs, host, recorder)
        self._why_no_graphs = graphs.why_not
        self._config = config
        self._host = host
        self._served = self._wanted = saes
        room = Room(config.max_batch_tokens, config.max_running_requests) if graphs.recorder else None
        self._planner = StepPlanner(host, saes, sample_every, room)
        self._batch = ContinuousBatch(
            host,
            # Late, as the step needs the batch and the batch the step's sampler.
            lambda logits, request_ids: self._step.sample(logits, request_ids),
            kv_cache_gib=config.kv_cache_gib,
            max_batch_tokens=config.max_batch_tokens,
            max_running_requests=config.max_running_requests,
            page_size=config.page_size,
            recorder=graphs.recorder,
        )
        self._line = WaitingLine(
            max_running=config.max_running_requests, max_waiting=config.max_waiting_requests
        )
        guarded = GuardedObserver(observer)
        self._running = RunningRequests(self._batch, self._planner, self._line, guarded)
        self._step = Step(self._batch, self._planner, self._running, self._line, guarded)
        self._entrance = Entrance(
            self._batch,
            self._planner,
            self._running,
            self._line,
            config,
            eos_token_ids=host.eos_token_ids,
        )
        self._studies = StudyLine(
            max_studies=config.max_studies,
            share=config.study_share,
            pace=StudyPace(small=config.study_tokens, large=config.idle_study_tokens),
            is_wanted=lambda: not self._line.is_idle,
            wake=self._line.wake,
        )
        self._wanted_watch = WatchList()
        self._heartbeat = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="steerd-engine", daemon=True)

    @property
    def heartbeat(self) -> float:
        """time.monotonic() of the last turn of the loop; now, while there is nothing to do."""
        return time.monotonic() if self._is_idle else self._heartbeat

    @property
    def is_alive(self) -> bool:
        """Whether the engine thread runs."""
        return self._thread.is_alive()

    @property
    def why_no_sharing(self) -> str:
        """Why prompts do not take over the keys and values of others that begin alike; empty when they do."""
        return self._entrance.why_no_sharing

    @property
    def why_no_graphs(self) -> str:
        """Why decode steps are not recorded; empty when they are."""
        return self._why_no_graphs or self._batch.why_not_recorded

    @property
    def steps_replayed(self) -> int:
        """Steps that the device ran from recordings."""
        return self._batch.steps_replayed

    @property
    def running(self) -> int:
        """Requests that have memory."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Requests in the waiting line."""
        return len(self._line)

    @property
    def studies(self) -> int:
        """Studies that have not ended."""
        return len(self._studies)

    def start(self) -> None:
        """Start the engine thread."""
        self._thread.start()

    def submit(
        self, request: GenerationRequest, deliver: Deliver, saes: LoadedSaes | None = None
    ) -> Submission:
        """Put a request in the waiting line; returns what `cancel` takes.

        `saes` are those that it was made for; those that are served now when nothing is said.

        Raises Overloaded when the line is full, AlreadyExists for an id in use, Unavailable when draining or
        stopped, InvalidRequest for a request that could never fit in the memory.
        """
        return self.submit_all([(request, deliver)], saes)[0]

    def submit_all(
        self, requests: Sequence[tuple[GenerationRequest, Deliver]], saes: LoadedSaes | None = None
    ) -> list[Submission]:
        """Put several requests in the waiting line, all of them or, raising as `submit` does, none.

        Raises InvalidRequest for more of them than could ever run and wait.
        """
        most = self._config.max_running_requests + self._config.max_waiting_requests
        if len(requests) > most:
            description = f"make {len(requests)} requests; at most {most} may run or wait here"
            raise InvalidRequest([FieldViolation("continuations", description)])
        for request, _ in requests:
            self._entrance.check_fits(request)
        self._expect_turns()
        submissions = [Submission(request, deliver, saes or self._wanted) for request, deliver in requests]
        self._line.join([each for submission in submissions for each in submission.together()])
        return submissions

    def watch(self, watch: WatchList) -> None:
        """Read this list on every token from the next step on, instead of the one before."""
        self._wanted_watch = watch

    def serve(self, saes: LoadedSaes) -> None:
        """Steer and read by these SAEs all that is submitted from now on, and what the server itself reads
        from the next step on; what was submitted before keeps those that it was submitted for.

        They must have the names, hook points and d_sae of those before.
        """
        self._wanted = saes

    def steered_forward(self, saes: LoadedSaes | None = None) -> SteeredForward:
        """Runs of whole texts under steering by these SAEs, or by those that are served then, for studies."""
        return SteeredForward(self._host, self._planner, saes)

    def cancel(self, submission: Submission) -> None:
        """End a request before its next step; nothing happens when it is over already."""
        self._line.cancel(submission)

    def study(self, study: Study[Any], deliver: DeliverStudy) -> StudyJob:
        """Run a study between the steps; returns what `stop_study` takes.

        Raises Overloaded when too many are under way, Unavailable when draining or stopped.
        """
        self._expect_turns()
        return self._studies.join(study, deliver)

    def stop_study(self, job: StudyJob, *, keep: bool) -> None:
        """End a study before its next slice, with its result so far or, without `keep`, with none."""
        self._studies.stop(job, keep=keep)

    def drain_studies(self) -> None:
        """Refuse new studies, and have those there are end with their results so far."""
        self._studies.drain(Unavailable("the server is draining", reason="DRAINING"))

    def drain(self, timeout_seconds: float) -> bool:
        """Refuse new requests and wait for those there are, and for studies to end with what they have.

        False when some are left at the end.
        """
        give_up = time.monotonic() + timeout_seconds
        self.drain_studies()
        requests_ended = self._line.drain(timeout_seconds)
        return self._studies.wait_until_empty(give_up - time.monotonic()) and requests_ended

    def stop(self) -> None:
        """End the thread after its current step and detach the hooks; what still runs is Unavailable."""
        self._close_line()
        if self._thread.is_alive():
            self._thread.join()
        self._studies.abandon(_stopped())  # those of an engine that never ran
        self._planner.close()

    def _run(self) -> None:
        try:
            with torch.inference_mode():
                while self._line.wait_for_work(lambda: bool(self._running) or len(self._studies) > 0):
                    self._turn()
        except Exception:
            _log.exception("the engine stopped")
        finally:
            self._close_line()
            self._running.abandon(_stopped())
            self._studies.abandon(_stopped())

    def _close_line(self) -> None:
        for submission in self._line.close():
            self._running.end(submission, FailedEvent(_stopped()))

    def _turn(self) -> None:
        self._heartbeat = time.monotonic()
        if self._wanted is not self._served:
            self._served = self._wanted
            self._planner.serve(self._served)
        self._step.watch(self._wanted_watch)
        self._drop_cancelled()
        self._entrance.admit()
        wishes = self._running.wishes().values()
        packed = self._batch.pack(may_record=self._planner.can_record(wishes))
        step_seconds = None
        if packed:
            self._step.run(packed)
            step_seconds = time.monotonic() - self._heartbeat
        if self._studies:
            self._heartbeat = time.monotonic()
            with self._planner.at_rest():
                self._studies.turn(step_seconds)

    @property
    def _is_idle(self) -> bool:
        return self._line.is_idle and not self._studies

    def _expect_turns(self) -> None:
        """The last turn may have been long ago."""
        if self._is_idle:
            self._heartbeat = time.monotonic()

    def _drop_cancelled(self) -> None:
        dropped, cancelled = self._line.take_cancelled()
        for submission in dropped:
            self._running.end(submission, submission.cancelled())
        for submission in cancelled:
            if submission.request.id in self._running:  # not when `stop` has just emptied the line
                self._running.finish(self._running[submission.request.id], FinishReason.CANCELLED)


def _stopped() -> Unavailable:
    return Unavailable("the engine has stopped", reason="ENGINE_STOPPED")
