"""Curves of a member for TensorBoard, Weights & Biases and their like, by accelerate's trackers.

metrics.jsonl always has everything; a tracker is a copy for people, so that one that fails is left
out with a warning, and never stops a training.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from distseg.config.load import flat_keys
from distseg.config.schema import Config
from distseg.records.files import read_lines
from distseg.records.paths import RoundKey, Run, member_id

logger = logging.getLogger(__name__)
SUMMARY = "ensemble"  # the name of the tracked run that holds the nested score


class Tracking:
    """What `track` names, for one tracked run: a member, or the summary of a whole run.

    A member of a round is one run of the tracker, all of a distseg run are one group.
    """

    def __init__(self, config: Config, run: Run, name: str, *, again: bool = False) -> None:
        """name: of the tracked run. again: it goes on after an interruption, and is logged from
        its beginning once more, as a tracker may have lost its last rows."""
        self.trackers: list[GeneralTracker] = []
        settings = {
            key: value if isinstance(value, str | int | float | bool) else str(value)
            for key, value in flat_keys(config.model_dump(mode="json")).items()
            if value is not None
        }
        for kind in config.track:
            self._attempt(kind, self._open, kind, config, run, name, again, settings)

    def _open(
        self, kind: str, config: Config, run: Run, name: str, again: bool, settings: dict[str, Any]
    ) -> None:
        made = LOGGER_TYPE_TO_CLASS[kind]
        folder, group = str(run.folder / "track"), run.folder.resolve().name
        # the same run again after a kill: an id that is a function of what is tracked
        identity = hashlib.sha1(
            f"{run.folder.resolve()}/{name}".encode(), usedforsecurity=False
        ).hexdigest()[:16]
        options: dict[str, dict[str, Any]] = {
            "tensorboard": {"purge_step": 0} if again else {},
            "wandb": {"group": group, "name": f"{group}/{name}", "id": identity, "dir": folder,
                      "resume": "allow", "job_type": SUMMARY if name == SUMMARY else "member"},
        }  # fmt: skip
        Path(folder).mkdir(parents=True, exist_ok=True)
        if made.requires_logging_directory:
            tracker = made(name, folder, **options.get(kind, {}))
        else:
            tracker = made(config.name, **options.get(kind, {}))
        tracker.start()
        self.trackers.append(tracker)
        tracker.store_init_configuration(settings)

    def log(self, row: Mapping[str, Any], step: int) -> None:
        """The numbers of a row, at an epoch."""
        numbers = {
            key: float(value)
            for key, value in row.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        for tracker in list(self.trackers):
            self._attempt(tracker.name, tracker.log, numbers, step)

    def summarize(self, values: Mapping[str, float]) -> None:
        """Numbers that stand for the whole."""
        self.log(values, 0)
        for tracker in list(self.trackers):
            summary = getattr(tracker.tracker, "summary", None)  # of Weights & Biases
            if summary is not None:
                self._attempt(tracker.name, summary.update, dict(values))

    def close(self) -> None:
        """Flush and end."""
        for tracker in list(self.trackers):
            self._attempt(tracker.name, tracker.finish)
        self.trackers.clear()

    def _attempt(self, kind: str, act: Callable[..., Any], *arguments: Any) -> None:
        try:
            act(*arguments)
        except Exception as error:  # noqa: BLE001  whatever a tracker does, the training goes on
            logger.warning("track: %s is left out: %s: %s", kind, type(error).__name__, error)
            self.trackers = [one for one in self.trackers if one.name != kind]


def member_tracking(config: Config, run: Run, key: RoundKey, name: str, fold: int) -> Tracking:
    """Of a member of a round, with the epochs that it has already."""
    where = f"round{str(key).replace('/', '_')}_{member_id(name, fold)}"
    rows = read_lines(run.member(key, name, fold).metrics)
    tracking = Tracking(config, run, where, again=bool(rows))
    for row in rows:
        tracking.log(row, row.get("epoch", 0))
    return tracking
