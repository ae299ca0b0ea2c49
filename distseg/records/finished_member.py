"""A finished member as it lies on disk: the one reader for the ensemble, the teachers, the report.

Nothing is loaded into memory but small tables: logits stay memory-mapped, and what predicts with
the snapshots (`inference/load.py`) opens them by their paths.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from distseg.records.errors import UserError
from distseg.records.files import parsing, read_json, read_json_or, read_lines, write_json
from distseg.records.manifest import Sample
from distseg.records.paths import MemberPaths, RoundKey, Run, members_on_disk
from distseg.records.predictions import Predictions

KINDS = ("tta", "plain")  # with and without test-time augmentation


class UnusableMember(Exception):
    """Why a member can neither be in an ensemble nor teach; the text is for a person to read."""


OWN_FILES = ("oof/index.csv", "oof/logits.f16", "oof_scores.json")  # beside the snapshots


def is_done(paths: MemberPaths) -> bool:
    """Whether a member has finished, and nothing that it has left is lost; see `loss_of`."""
    return paths.done.is_file() and not loss_of(paths)


def loss_of(paths: MemberPaths) -> str:
    """What a finished member has lost since, for a person to read; "" for nothing, and for a
    member that has not finished. Looks at names and sizes: checksums are for those who read."""
    if not paths.done.is_file():
        return ""
    try:
        done = read_json(paths.done)
        with parsing(paths.done):
            if why := why_again(done):
                return why
            if lost := lost_files(paths, done):
                return f"{paths.folder / lost[0]}: is lost, or has another size than it had"
    except UserError as error:
        return str(error)
    return ""


def why_again(record: Mapping[str, Any]) -> str:
    """Why what a record tells of is to be made again, though nothing of it is lost: a key of the
    config that changed; "" where it is not. Of DONE and of ensemble.json; see `outdate`."""
    return str(record.get("again", ""))


def outdate(path: Path, reason: str) -> None:
    """Note in DONE or in ensemble.json, whole or not at all, that what it tells of is to be made
    again; who makes it writes the record anew. A record that cannot be read needs no such note."""
    record = read_json_or(path, {})
    if record and why_again(record) != reason:
        write_json(path, {**record, "again": reason})


def planned_epochs(done: Mapping[str, Any]) -> int | None:
    """The epochs for which a finished member was trained, as its DONE says: more than it has
    trained where `early_stopping` has ended a stage. None: DONE does not say it."""
    found = done.get("planned_epochs", done.get("epochs"))
    return found if isinstance(found, int) else None


def has_trained(paths: MemberPaths) -> bool:
    """Whether a member has come to the end of an epoch."""
    return paths.done.is_file() or bool(read_lines(paths.metrics))


def forget(paths: MemberPaths) -> None:
    """Remove what a member that has not trained an epoch has left, but for its logs. UserError: a
    process trains it."""
    lock = FileLock(paths.lock)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"{paths.folder}: another process trains this member") from None
    try:
        for path in (paths.config, paths.failure, paths.metrics, paths.progress):
            path.unlink(missing_ok=True)
        for folder in (paths.state, paths.snapshots, paths.oof, paths.oof_snapshots):
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        lock.release()


def any_trained(run: Run) -> bool:
    """Whether a member of any round, or a pair teacher, has come to the end of an epoch."""
    return any(has_trained(paths) for _, paths in members_on_disk(run))


def forget_all(run: Run) -> None:
    """`forget` every member of a run of which none has trained an epoch."""
    for _, paths in members_on_disk(run):
        forget(paths)


def lost_files(paths: MemberPaths, done: Mapping[str, Any]) -> list[str]:
    """Files that DONE speaks of which are missing or of another size, by name in the folder."""
    sizes: dict[str, int | None] = {f"snapshots/{name}": None for name in done.get("snapshots", [])}
    sizes |= dict.fromkeys(OWN_FILES, None) if sizes else {}
    sizes |= done.get("files", {})
    return [name for name, size in sizes.items() if not _is_there(paths.folder / name, size)]


def file_sizes(paths: MemberPaths, snapshots: Iterable[str]) -> dict[str, int]:
    """Bytes of each file that a finished member leaves; what `lost_files` compares with."""
    names = [*(f"snapshots/{name}" for name in snapshots), *OWN_FILES]
    apart = sorted(paths.oof_snapshots.rglob("*")) if paths.oof_snapshots.is_dir() else []
    names += [path.relative_to(paths.folder).as_posix() for path in apart if path.is_file()]
    return {name: (paths.folder / name).stat().st_size for name in names}


def _is_there(path: Path, size: int | None) -> bool:
    return path.is_file() and size in (None, path.stat().st_size)


@dataclass(frozen=True)
class FinishedMember:
    """One model of the config that has been trained on one fold, in one round.

    Its out-of-fold files are read when they are first asked for: to predict other images nobody
    needs them. `opened` reads them at once.

    Attributes:
        paths: its files.
        round: the round's number, or the key of a round's pair teachers.
        name: the model's name in the config.
        fold: the fold that it validated and never trained on.
        rows: what it validated, in the Manifest's order.
        num_outputs: classes of its logits.
        snapshots: files of its weights, relative to the run folder, in the order of DONE.
        trained_on: the folds whose labels have reached it, directly or through its teachers.
    """

    paths: MemberPaths
    round: RoundKey
    name: str
    fold: int
    rows: tuple[Sample, ...]
    num_outputs: int
    snapshots: list[str]
    trained_on: frozenset[int]

    @classmethod
    def read(
        cls, run: Run, round: RoundKey, name: str, fold: int, *, rows: Sequence[Sample],
        num_outputs: int,
    ) -> FinishedMember:  # fmt: skip
        """Read what training left: DONE, and that the snapshots are there.

        Raises:
            UnusableMember: it has not finished, it failed, or one of its files is missing or
                damaged.
        """
        paths = run.member(round, name, fold)
        with _reasons():
            if not paths.done.is_file():
                raise UnusableMember(_why_not_done(paths))
            done = read_json(paths.done)
            if why := why_again(done):
                raise UnusableMember(f"it is to be made again: {why}")
            files = [paths.snapshots / file for file in done["snapshots"]]
            for file in files:
                if not file.is_file():
                    raise UnusableMember(f"its snapshot {file.name} is missing")
            return cls(
                paths=paths,
                round=round,
                name=name,
                fold=fold,
                rows=tuple(rows),
                num_outputs=num_outputs,
                snapshots=[file.relative_to(run.folder).as_posix() for file in files],
                trained_on=frozenset(done["trained_on"]),
            )

    def opened(self) -> FinishedMember:
        """The member itself, once its out-of-fold files are read and found to fit each other, the
        data and the config. UnusableMember: they do not, or one is missing or damaged."""
        for name in ("predictions", "by_snapshot", "variants", "heads"):
            getattr(self, name)
        return self

    @cached_property
    def predictions(self) -> Predictions:
        """Out-of-fold logits of `rows`, at native size. Raises as `opened` does."""
        return self._read(self.paths.oof)

    @cached_property
    def by_snapshot(self) -> list[Predictions]:
        """The same logits of each of `snapshots` by itself; [] where training kept none. Raises as
        `opened` does."""
        stems = [Path(file).stem for file in self.snapshots]
        folders = [self.paths.oof_snapshots / stem for stem in stems]
        if not self.paths.oof_snapshots.is_dir():
            return []
        return [self._read(folder) for folder in folders]

    def _read(self, folder: Path) -> Predictions:
        with _reasons():
            predictions = Predictions(folder)
            predictions.check()
            _check_shapes(predictions, self.rows, self.num_outputs)
            return predictions

    @cached_property
    def variants(self) -> dict[str, NDArray[np.int64]]:
        """Pixel counts (N, C, 3) at logit 0 of `rows`, in their order, by `mean_tta`, `mean_plain`,
        `SNAPSHOT_tta` and `SNAPSHOT_plain`. Raises as `opened` does."""
        stems = ["mean", *(Path(file).stem for file in self.snapshots)]
        with _reasons():
            return _counts(read_json(self.paths.oof_scores), stems, self.rows, self.num_outputs)

    @cached_property
    def heads(self) -> list[NDArray[np.float32]]:
        """Logits (N, C) of the image head of each of `snapshots`, for `rows` in their order; []
        where training kept none. Raises as `opened` does."""
        with _reasons():
            record = read_json(self.paths.oof_scores)
            if "heads" not in record:
                return []
            stems = [Path(file).stem for file in self.snapshots]
            found = [np.array(record["heads"][stem], dtype=np.float32) for stem in stems]
            shape = (len(self.rows), self.num_outputs)
            if self.rows and any(own.shape != shape or np.isnan(own).any() for own in found):
                raise UnusableMember("oof_scores.json: the image heads are of other images")
            return [own.reshape(shape) for own in found]


@contextlib.contextmanager
def _reasons() -> Iterator[None]:
    """What files of another form raise, as the reason why a member is unusable."""
    try:
        yield
    except KeyError as error:
        raise UnusableMember(f"one of its files has no {error}") from None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UnusableMember(str(error) or type(error).__name__) from None


def _why_not_done(paths: MemberPaths) -> str:
    if not paths.failure.is_file():
        return "it has not finished"
    failure = read_json_or(paths.failure, {})
    return f"it failed ({failure.get('kind', 'error')}): {failure.get('message', '')}"


def _check_shapes(predictions: Predictions, rows: Sequence[Sample], num_outputs: int) -> None:
    """UnusableMember: a row has no logits, or those of another size or number of classes."""
    for row in rows:
        expected = (num_outputs, row.height, row.width)
        place = predictions.index.get(row.id)
        found = None if place is None else predictions.shapes[place]
        if found != expected:
            raise UnusableMember(
                f"its out-of-fold logits of {row.id!r} are {found}, not {expected}"
            )


def _counts(
    record: Mapping[str, Any], stems: Sequence[str], rows: Sequence[Sample], num_outputs: int
) -> dict[str, NDArray[np.int64]]:
    """`FinishedMember.variants` of the record in oof_scores.json."""
    if record["ids"] != [row.id for row in rows]:
        raise UnusableMember("oof_scores.json counts other images than those of its fold")
    found = {key: np.array(table, dtype=np.int64) for key, table in record["variants"].items()}
    if not rows:  # JSON keeps no shape of an empty table
        found = {key: np.zeros((0, num_outputs, 3), np.int64) for key in found}
    for key in (f"{stem}_{kind}" for stem in stems for kind in KINDS):
        if key not in found:
            raise UnusableMember(f"oof_scores.json has no counts of {key!r}")
        if found[key].shape != (len(rows), num_outputs, 3):
            raise UnusableMember(
                f"oof_scores.json: counts of {key!r} are not of {len(rows)} images"
            )
    return found
