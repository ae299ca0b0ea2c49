"""One small model that learns from a finished ensemble: a run of its own, beside the ensemble's.

Its config is that of the run with one more model and one more round, `distill`, whose teachers are
the models of the run's last round. What the run has made lies in the new folder too, as hard links:
nothing of it is trained or decoded again, and nothing is written to the run.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from distseg.config.load import dump_config, load_config
from distseg.config.member import MemberConfig
from distseg.config.rounds import RoundConfig
from distseg.config.schema import Config
from distseg.config.training import VIEWS, StageConfig
from distseg.records.errors import UserError
from distseg.records.files import atomic_write, read_json, whole_folder, write_json
from distseg.records.finished_member import is_done
from distseg.records.manifest import Manifest
from distseg.records.paths import (
    ALL_ROUNDS,
    RoundKey,
    Run,
    final_ensemble,
    find_run,
    rounds_on_disk,
)

logger = logging.getLogger("distseg.run")

LINKED = {".safetensors", ".f16", ".u8"}  # written once, and large; the rest is copied
LEFT_BEHIND = {"state", "features"}  # what resuming would need, and what is made again


def make_student(
    source: Path, folder: Path, encoder: str, check: Callable[[Config, Path], Config]
) -> dict[str, Any] | None:
    """Train, score and export the student of a finished run; see `api.export_student`.

    Args:
        check: the config as its user changes it, or UserError; of a config, and of the folder that
            says what is done already.

    Returns:
        What export.json of the model holds; None: the student's run is not whole.
    """
    from distseg.run import pipeline
    from distseg.run.summary import compare_runs

    teachers = find_run(source)
    if teachers.exported.is_file():
        raise UserError(
            f"{source}: is an ensemble that was exported, without the data that a student learns "
            "from; name the run"
        )
    ensemble = final_ensemble(teachers)
    config = student_config(teachers, load_config(teachers.config), ensemble, encoder)
    run = Run(folder)
    config = check(config, folder if run.student.is_file() else source)
    if any(ensemble["rule"].get("gate") or []) and not _has_head(config):
        logger.warning(
            "the ensemble empties masks by its image heads (postprocess.gate), and the student has "
            "none; members.%s.image_head=.1 gives it one", student_name(config),
        )  # fmt: skip
    place_student(teachers, ensemble, folder, config)
    if pipeline.run(config, folder):
        return None
    card = Run(run.model).exported
    if card.is_file() and card.stat().st_mtime_ns >= run.final.stat().st_mtime_ns:
        return dict(read_json(card, "facts"))  # an earlier call has written it
    from distseg.export.student import export_student

    (pair,) = compare_runs([source, folder])["pairs"]
    return export_student(source, folder, student_name(config), pair)


def default_folder(source: Path) -> Path:
    """Beside the run: RUN-student."""
    whole = Path(os.path.abspath(source))  # noqa: PTH100 (`.` has no name)
    return whole.with_name(f"{whole.name}-student")


def student_config(run: Run, config: Config, ensemble: dict[str, Any], encoder: str = "") -> Config:
    """The config of the student's run.

    Args:
        run, config, ensemble: the finished run, and the record of its final ensemble.
        encoder: of the student; "": it is like the smallest model of the ensemble's last round.

    Raises:
        UserError: no model of that round is there; or labels of the only fold that is trained have
            chosen the weights: no other fold's models could judge what the student learns from.
    """
    last = _last_round(run, ensemble)
    folds, keys = Manifest.read(run.truth).folds, range(last + 1)
    planned = {key: config.planned_members(folds, key) for key in keys}
    done: dict[str, list[int]] = {}
    for name in config.members:
        own = [(key, fold) for key in keys for one, fold in planned[key] if one == name]
        lost = {fold for key, fold in own if not is_done(run.member(key, name, fold))}
        if left := [fold for fold in folds if fold in {f for _, f in own} - lost]:
            done[name] = left
    teachers = [name for name in done if any(name == one for one, _ in planned[last])]
    if not teachers:
        raise UserError(f"{run.folder}: no model of round {last} is whole: there is no teacher")
    small = min(teachers, key=lambda name: _weight_bytes(run, last, name, done[name][0]))
    member, student = _student(config, small, encoder), _free_name(config)
    members = {name: config.members[name].model_copy(update={"folds": done[name]}) for name in done}
    rounds = [
        entry.model_copy(update={"members": [n for n in entry.members or done if n in done]})
        for entry in config.rounds[: last + 1]
    ]
    judge = _judge(run, config, done, teachers, last)
    rounds.append(RoundConfig(kind="distill", teacher=judge, members=[student]))
    members[student] = member
    rules = config.postprocess
    if all(one.image_head is None for one in members.values()):  # those with a head are lost
        rules = rules.model_copy(update={"gate": "none"})
    return config.model_copy(
        update={
            "name": f"{config.name[:72]}-student",
            "members": members,
            "postprocess": rules,
            "rounds": rounds,
            "stop": "never",
            "ensemble": config.ensemble.model_copy(update={"rounds": "last", "snapshots": "all"}),
            "predict": config.predict.model_copy(update={"every_round": False}),
            "tune": None,
        }
    )


def _judge(
    run: Run, config: Config, done: dict[str, list[int]], teachers: list[str], last: int
) -> Literal["fold", "oof"]:
    """Who judges the train rows. Where labels of a fold have chosen the weights of its models, it
    is those of the other folds, and the score is indirect as theirs is.

    done: the whole folds of each model; teachers: those of round `last`. UserError: there is no
    other fold.
    """
    watched = [
        why
        for name in done
        for key in range(last + 1)
        for stage in config.stages_of(name, key)
        for why in config.watches_fold(stage)
    ]
    whole = sorted({fold for name in teachers for fold in done[name]})
    if watched and len(whole) < 2:
        raise UserError(
            f"{run.folder}: {watched[0]} has chosen weights by the score of fold {whole[0]}, the "
            "only one with finished models: its labels would reach the student, and no other "
            "models can judge in their place. A student needs a run with train.inner_share: .1, or "
            "with keep: last or cycles and neither a schedule nor early_stopping that watches the "
            "score, or with two folds or more"
        )
    return "oof" if watched else "fold"


def student_name(config: Config) -> str:
    """The model of a student's run that is the student."""
    (name,) = config.rounds[-1].members or [""]
    return name


def _has_head(config: Config) -> bool:
    return config.members[student_name(config)].image_head is not None


def place_student(source: Run, ensemble: dict[str, Any], folder: Path, config: Config) -> Run:
    """The folder of the student's run, with all that the run has made; one that is there goes on.

    Raises:
        UserError: something else is there, or the run's ensemble is another one by now.
    """
    run = Run(folder)
    made_of = {"run": source.folder.resolve().name, "members": ensemble["members"]}
    if run.student.is_file():
        if read_json(run.student) != made_of:
            raise UserError(
                f"{folder}: holds a student of another ensemble than that of {source.folder}, "
                "which may have changed since; name a new folder with --out"
            )
        return run
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise UserError(f"{folder}: something is there already; name a new folder with --out")
    with whole_folder(folder) as temporary:
        for path in _made(source, len(config.rounds) - 1):
            _bring(path, temporary / path.relative_to(source.folder))
        new = Run(temporary)
        atomic_write(new.config, dump_config(config))
        write_json(new.student, made_of)
        new.log_event("student_of", run=made_of["run"])  # it also marks the folder as a run's
    return run


def _last_round(run: Run, ensemble: dict[str, Any]) -> int:
    """The round whose models teach: that of the ensemble, or the last one of all together."""
    if ensemble["round"] != ALL_ROUNDS:
        return int(ensemble["round"])
    return max(n for n in rounds_on_disk(run) if run.ensemble(n).is_file())


def _weight_bytes(run: Run, key: RoundKey, name: str, fold: int) -> int:
    """Bytes of a network's weights."""
    sizes = [p.stat().st_size for p in run.member(key, name, fold).snapshots.glob("*.safetensors")]
    return min(sizes)


def _student(config: Config, small: str, encoder: str) -> MemberConfig:
    """The model that learns: like `small`, or a Unet on another encoder; trained as `small` was in
    the first round, up to one snapshot."""
    like = config.members[small]
    stages = [_one_snapshot(config, stage) for stage in config.stages_of(small, 0)]
    if encoder in ("", like.encoder):
        return like.model_copy(update={"folds": None, "stages": stages})
    known = [m.encoder_weights for m in config.members.values() if m.encoder == encoder]
    weights = known[0] if known else None
    if weights is None:  # a frozen encoder would stay random
        free = {"freeze_encoder": 0, "views": VIEWS}
        stages = [stage.model_copy(update=free) for stage in stages]
    return MemberConfig(
        arch="PlainUnet" if encoder == "none" else "Unet",
        encoder=encoder,
        encoder_weights=weights,
        image_head=like.image_head,
        stages=stages,
        input=like.input,
        batch_size=like.batch_size,
    )


def _one_snapshot(config: Config, stage: StageConfig) -> StageConfig:
    """The stage with one set of weights at its end: the last, the average that it asks for, or the
    best where rows of the member's own choose it."""
    keep: Literal["last", "cycles", "best"] = "last"
    if stage.swa and stage.keep == "cycles":
        keep = "cycles"
    elif stage.keep == "best" and config.train.inner_share:
        keep = "best"
    return stage.model_copy(update={"keep": keep, "rows": None})


def _free_name(config: Config) -> str:
    names = ("student", *(f"student{number}" for number in range(2, len(config.members) + 3)))
    return next(name for name in names if name not in config.members)


def _made(run: Run, rounds: int) -> Iterator[Path]:
    """The files of a run that its first `rounds` rounds have made, without logs and locks."""
    folders = [run.data, run.cache, *(run.round(number) for number in range(rounds))]
    for path in [run.folds, *(p for folder in folders for p in sorted(folder.rglob("*")))]:
        inside = path.relative_to(run.folder).parts
        hidden = any(part.startswith(".") or part in LEFT_BEHIND for part in inside)
        if path.is_file() and not hidden and path.suffix not in (".log", ".lock", ".tmp"):
            yield path


def _bring(path: Path, target: Path) -> None:
    """A file under another name: linked where it never changes, else copied with its time."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in LINKED:
        try:
            os.link(path, target)
            return
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
                raise
            logger.info("%s: copied, as it cannot be linked from %s", target.name, path.parent)
    shutil.copy2(path, target)
