"""Why the training of a member ends early, and what is left on disk to say so."""

from __future__ import annotations

import json
import logging
import signal
import time

import torch

from distseg.records.errors import Damaged, UserError
from distseg.records.files import atomic_write
from distseg.records.paths import MemberPaths

logger = logging.getLogger(__name__)


class NonFiniteLoss(RuntimeError):
    """The loss stays NaN or infinite; the message names epoch, step and sample ids."""


class Interrupted(SystemExit):
    """SIGTERM or SIGINT has come. The state on disk is of the step where the loop stopped, or of
    an epoch's end; see `train.save_and_leave`. The exit status is 128 + the signal's number.
    """


class StopSignal:
    """Within its block, SIGTERM and SIGINT only set `number`; the loop looks at it between steps.

    A handler that raised would leave at any line, also between two files of a state.
    """

    number: int | None = None

    def __enter__(self) -> StopSignal:
        self.previous = {s: signal.signal(s, self._set) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _set(self, number: int, _frame: object) -> None:
        self.number = number


def write_failure(paths: MemberPaths, error: Exception) -> None:
    """Say on disk why this job stopped, for the scheduler's retry rule.

    The first rank that writes names the cause: what the others see after it is its absence.
    """
    if paths.failure.is_file():
        return
    kind = "error"
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        kind = "out_of_memory"
    elif isinstance(error, NonFiniteLoss):
        kind = "non_finite"
    elif isinstance(error, Damaged):
        kind = "damaged"  # a file of this member's: the others go on
    elif isinstance(error, UserError):
        kind = "user"
    text = {"kind": kind, "message": f"{type(error).__name__}: {error}", "time": time.time()}
    atomic_write(paths.failure, json.dumps(text))
    logger.error("%s", text["message"], exc_info=kind == "error")
