"""A run on disk, in Python: config, scores, members, out-of-fold predictions. Imports no torch."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from distseg.config.load import load_config
from distseg.config.schema import Config
from distseg.ensemble.choices import Choices, choices_of, masks_of_row
from distseg.ensemble.out_of_fold_set import OutOfFold
from distseg.functional.combine import to_probabilities
from distseg.functional.postprocess import Rule
from distseg.records.errors import UserError
from distseg.records.files import read_json, read_json_or, read_lines
from distseg.records.finished_member import is_done
from distseg.records.oof_table import COUNTS
from distseg.records.paths import Run, final_ensemble, find_run, rounds_on_disk
from distseg.records.tables import read_rows
from distseg.run.members import known_members
from distseg.run.until import partial_record

if TYPE_CHECKING:
    import pandas

Value = TypeVar("Value")


class FinishedRun:
    """What a run has found.

    Attributes:
        folder: of the run. config: of the run, with every default.
        ensemble: the record of ensemble.json: members, weights, space, rule, scores.
        score, standard_error: nested, out of fold, in the metric's own unit.
        flag: honest, indirect or leaky: what the score is.
        scores: of the members, spaces, splits and steps, as ensemble.json has them under "scores".
    """

    def __init__(self, run: Run, config: Config, ensemble: dict[str, Any]) -> None:
        self._run, self.config, self.ensemble = run, config, ensemble
        self.folder = run.folder
        self.scores: dict[str, Any] = ensemble["scores"]
        self.score = float(self.scores["final"]["score"])
        self.standard_error = float(self.scores["final"]["standard_error"])
        self.flag = str(ensemble["flag"])

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> FinishedRun:
        """UserError: no run is there, or it has no ensemble yet."""
        run = find_run(Path(folder))
        return cls(run, load_config(run.config), final_ensemble(run))

    def __repr__(self) -> str:
        score = f"{self.config.metric} {self.score:.4f} ± {self.standard_error:.4f}"
        return f"<distseg run {self.folder}: out-of-fold {score}, {self.flag}>"

    @property
    def report(self) -> dict[str, Any]:
        """What report.json holds; {} before there is one."""
        found: dict[str, Any] = read_json_or(self._run.report_json, {})
        return found

    @property
    def partial(self) -> dict[str, Any] | None:
        """What a run that ended early lacks; None where it is whole."""
        return partial_record(self._run)

    @cached_property
    def members(self) -> list[RunMember]:
        """The members that have finished, round by round."""
        return [
            RunMember.read(self._run, number, name, fold, self.ensemble)
            for number in rounds_on_disk(self._run)
            for name, fold in known_members(self.config, self._run, number)
            if is_done(self._run.member(number, name, fold))
        ]

    def oof(self) -> OutOfFoldTable:
        """The final ensemble on the images that its members did not train on. UserError: the
        members' out-of-fold logits are gone."""
        return OutOfFoldTable(self._run, self.config, self.ensemble)


@dataclass(frozen=True)
class RunMember:
    """One model of the config, trained on all folds but one, in one round.

    Attributes:
        weight: in the final ensemble; 0 where it has no part in it.
        score: of its own fold, at probability .5, with TTA; None without rows to validate.
        snapshots: its weights, safetensors. metrics: one record an epoch.
    """

    round: int
    name: str
    fold: int
    weight: float
    score: float | None
    snapshots: list[Path]
    metrics: list[dict[str, Any]]

    @classmethod
    def read(
        cls, run: Run, number: int, name: str, fold: int, ensemble: dict[str, Any]
    ) -> RunMember:
        paths = run.member(number, name, fold)
        done = read_json(paths.done)
        snapshots = [paths.snapshots / file for file in done["snapshots"]]
        own = {file.relative_to(run.folder).as_posix() for file in snapshots}
        weights = [m["weight"] for m in ensemble["members"] if own & set(m["snapshots"])]
        score, rows = done.get("score"), read_lines(paths.metrics)
        return cls(number, name, fold, sum(weights), score, snapshots, rows)


class Lazy(Sequence[Value], Generic[Value]):
    """Values that are read when they are asked for: memory holds what the caller keeps."""

    def __init__(self, count: int, read: Callable[[int], Value]) -> None:
        self._count, self._read = count, read

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Value: ...
    @overload
    def __getitem__(self, index: slice) -> list[Value]: ...
    def __getitem__(self, index: int | slice) -> Value | list[Value]:
        if isinstance(index, slice):
            return [self._read(i) for i in range(*index.indices(self._count))]
        return self._read(range(self._count)[index])

    def __iter__(self) -> Iterator[Value]:
        return map(self._read, range(self._count))


class OutOfFoldTable:
    """Each out-of-fold image with the final ensemble's word on it, as the printed score counts it:
    weights, thresholds and rules were tuned on the other splits.

    All sequences have one entry for each of `ids`, in one order. Arrays are read from disk when
    they are asked for.

    Attributes:
        ids, folds, parts: of the image; a part is the label of the split that it was scored in.
        scores: of the image, the mean over its classes (for miou: of its own IoUs).
        logits: float32 (C, H, W), the members of the image's fold combined.
        probabilities: float32 (C, H, W), 0..1.
        rules: the rule of the image's part, as `distseg.functional.postprocess` takes it:
            threshold (a logit for each class), min_area, ...
        masks: uint8 (K, H, W), after the rule: K = C, values 0 and 1; multiclass: K = 1, class
            numbers.
        truth: uint8 (K, H, W); 255 counts nowhere.
    """

    def __init__(self, run: Run, config: Config, ensemble: dict[str, Any]) -> None:
        self._config = config
        self._rows = read_rows(run.oof_table(ensemble["round"]))
        if not self._rows:
            raise UserError(f"{run.oof_table(ensemble['round'])}: no out-of-fold table here")
        self._oof = OutOfFold(config, run, ensemble["round"])
        self._choices: Choices = choices_of(ensemble, self._oof.names)
        manifest = self._oof.manifest
        self._places = {manifest[row].id: row for row in self._oof.rows}
        self.ids = [row["id"] for row in self._rows]
        self.folds = [int(row["fold"]) for row in self._rows]
        self.parts = [row["part"] for row in self._rows]
        self.scores = [float(row["score"]) for row in self._rows]
        self.rules: list[Rule] = [self._choices[part].rule for part in self.parts]
        count = len(self.ids)
        self.logits: Sequence[NDArray[np.float32]] = Lazy(count, self._logits)
        self.probabilities: Sequence[NDArray[np.float32]] = Lazy(count, self._probabilities)
        self.masks: Sequence[NDArray[np.uint8]] = Lazy(count, self._masks)
        self.truth: Sequence[NDArray[np.uint8]] = Lazy(count, self._truth)

    def __len__(self) -> int:
        return len(self.ids)

    def frame(self) -> pandas.DataFrame:
        """id, fold, part, score, and pixel counts inter_CLASS, pred_CLASS, truth_CLASS of each
        image. UserError: pandas is not installed."""
        if importlib.util.find_spec("pandas") is None:
            raise UserError("oof().frame() needs pandas: pip install 'distseg[pandas]'")
        import pandas

        columns: dict[str, Any] = {
            "id": self.ids, "fold": self.folds, "part": self.parts, "score": self.scores,
        }  # fmt: skip
        for key in COUNTS:
            values = np.array([[int(v) for v in row[key].split()] for row in self._rows])
            columns |= {f"{key}_{c}": values[:, k] for k, c in enumerate(self._config.classes)}
        return pandas.DataFrame(columns)

    def _logits(self, index: int) -> NDArray[np.float32]:
        choice = self._choices[self.parts[index]]
        return self._oof.combined(self._place(index), choice.weights, choice.space)

    def _probabilities(self, index: int) -> NDArray[np.float32]:
        space = self._choices[self.parts[index]].space
        return to_probabilities(self._logits(index), space, self._config.task)

    def _masks(self, index: int) -> NDArray[np.uint8]:
        return masks_of_row(self._oof, self._place(index), self._choices[self.parts[index]])

    def _truth(self, index: int) -> NDArray[np.uint8]:
        return self._oof.target(self._place(index))

    def _place(self, index: int) -> int:
        """The row of the Manifest."""
        return self._places[self.ids[index]]
