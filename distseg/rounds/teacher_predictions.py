"""What teachers say about images: statistics, masks and, when asked, logits; one folder each.

A folder holds teachers.json (who they are and which folds they had seen), statistics.csv (a row an
image: the columns of `functional.statistics`, and the mask at probability .5 as RLE) and, for soft
targets, logits/ (Predictions).
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distseg.config.rounds import RoundConfig
from distseg.functional.rle import encode
from distseg.functional.statistics import STATISTICS, image_statistics
from distseg.records.errors import UserError
from distseg.records.files import parsing, whole_folder, write_json
from distseg.records.predictions import PredictionsWriter, merge
from distseg.records.tables import WriteRow, read_rows, table_writer, write_table

HEADER = ("id", "teacher_folds", *STATISTICS, "mask")
SURE = 20.0  # the logit of a hard mask that is handed on as a soft target


def kept_logits(round_config: RoundConfig) -> str:
    """Which logits a round's teachers leave: `none`, `soft` (the mean over the teachers) or `hard`
    (their mask, as plus and minus SURE)."""
    if not round_config.makes_soft:
        return "none"
    return "soft" if round_config.kind == "distill" or round_config.targets == "soft" else "hard"


class TeacherPredictionsWriter:
    """Takes what teachers say about one image after another; see `write_teacher_predictions`."""

    def __init__(
        self, task: str, logits: str, write_row: WriteRow, predictions: PredictionsWriter | None
    ) -> None:
        self.task, self.logits = task, logits
        self.write_row, self.predictions = write_row, predictions

    def add(
        self, name: str, logits_MCHW: NDArray, target_KHW: NDArray[np.uint8] | None,
        image_HWC: NDArray[np.uint8], teacher_folds: Iterable[int],
        head_logits: NDArray | None = None,
    ) -> None:  # fmt: skip
        """Arguments as of `functional.statistics.image_statistics`; teacher_folds: see
        `records.manifest.Sample`."""
        found, mean, mask = image_statistics(
            logits_MCHW, target_KHW, image_HWC, self.task, head_logits
        )
        background = [""] if self.task == "multiclass" else []  # class 0 has no plane
        text = "|".join([*background, *(encode(plane.astype(np.uint8)) for plane in mask)])
        folds = " ".join(map(str, sorted(teacher_folds)))
        self.write_row([name, folds, *(f"{found[key]:.6g}" for key in STATISTICS), text])
        if self.predictions is not None:
            yes = mean == mean.max(axis=0) if self.task == "multiclass" else mean > 0
            kept = mean if self.logits == "soft" else np.where(yes, SURE, -SURE)
            self.predictions.add(name, kept)


@contextlib.contextmanager
def write_teacher_predictions(
    folder: Path, record: Mapping[str, Any], task: str, logits: str
) -> Iterator[TeacherPredictionsWriter]:
    """A writer of teachers' predictions; `folder` appears, whole, when the block ends.

    record: teachers.json. logits: as of `kept_logits`.
    """
    with whole_folder(folder) as temporary:
        predictions = PredictionsWriter(temporary / "logits") if logits != "none" else None
        with table_writer(temporary / "statistics.csv", HEADER) as write_row:
            yield TeacherPredictionsWriter(task, logits, write_row, predictions)
        if predictions is not None:
            predictions.close()
        write_json(temporary / "teachers.json", record)


class TeacherPredictions:
    """A folder that `write_teacher_predictions` left.

    Attributes:
        ids: in the order of the rows.
        table: columns of statistics, float64 (N,).
        masks: RLE of each row, one for each class, joined by "|".
        teacher_folds: of each row.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / "statistics.csv"
        if not path.is_file():
            raise UserError(f"{folder}: no teachers' judgement here (statistics.csv is missing)")
        rows = read_rows(path)
        with parsing(path, f"remove the folder {folder}, and `distseg run` makes it again"):
            self.ids = [row["id"] for row in rows]
            self.masks = [row["mask"] for row in rows]
            self.teacher_folds = [tuple(map(int, row["teacher_folds"].split())) for row in rows]
            self.table = {key: np.array([float(row[key]) for row in rows]) for key in STATISTICS}

    @property
    def logits(self) -> Path:
        """Folder of Predictions; it is there only for soft targets."""
        return self.folder / "logits"

    def statistics(self, place: int) -> dict[str, float]:
        """The statistics of one row, by name."""
        return {key: float(column[place]) for key, column in self.table.items()}

    def soft_path(self, run_folder: Path) -> str:
        """Where a Manifest finds the soft targets, relative to the run folder; "" without any."""
        return self.logits.relative_to(run_folder).as_posix() if self.logits.is_dir() else ""


def join_rank_folders(folders: Sequence[Path], folder: Path, order: Sequence[str]) -> None:
    """Join what ranks wrote into one folder, in the order of ids `order`; theirs are removed."""
    with whole_folder(folder) as temporary:
        rows = {row["id"]: row for one in folders for row in read_rows(one / "statistics.csv")}
        cells = ([rows[name][column] for column in HEADER] for name in order)
        write_table(temporary / "statistics.csv", HEADER, cells)
        logits = [one / "logits" for one in folders]
        if logits[0].is_dir():
            merge(logits, temporary / "logits", order)
        shutil.copy(folders[0] / "teachers.json", temporary / "teachers.json")
    for one in folders:
        shutil.rmtree(one)
