"""The Python API: what the command line does, as functions of Python values.

`import distseg` imports nothing heavy; each name here loads what it needs when it is called.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distseg.config.find import config_names, find_config
from distseg.config.load import Read, apply_overrides, load_tree, read_tree
from distseg.config.schema import Config
from distseg.records.errors import UserError
from distseg.records.paths import RUN_FOLDER, Run

if TYPE_CHECKING:
    from distseg.inference.ensemble import Ensemble
    from distseg.models.check import Tried
    from distseg.run.finished import FinishedRun

ConfigLike = Config | Mapping[str, Any] | str | os.PathLike[str]
FolderLike = str | os.PathLike[str]


class RunFailed(RuntimeError):
    """A run came to its end without all that it should make; its log says why."""


def run(
    config: ConfigLike, overrides: Sequence[str] = (), *, out: FolderLike | None = None,
    budget: str | None = None, weights: FolderLike | None = None, until: str | None = None,
) -> FinishedRun:  # fmt: skip
    """Train, ensemble, predict and report: `distseg run`. Finished steps are skipped.

    Args:
        config: the path of a YAML file, a name in configs/, a mapping of keys, or a Config; or a
            folder of data, for which `init` writes the config into the run folder.
        overrides: `key.sub=value`, as on the command line.
        out: the run folder; runs/<name> by default.
        budget: of a folder of data, as in `init`.
        weights: of a folder of data, as in `init`.
        until: train no longer than `8h`, `30m` or until `22:30`, and end with what is finished:
            `FinishedRun.partial` says what is missing. The same call without it goes on.

    Raises:
        UserError: mistakes of the config or the data, all at once, before the first job.
        RunFailed: no member finished, or something needed is missing at the end.
        distseg.records.errors.Stopped: a signal came; the same call goes on from there.
    """
    from distseg.jobs.apart import apart
    from distseg.run import pipeline
    from distseg.run.until import Until

    end = Until.of(until)  # from now on, whatever comes before the first job
    if not is_data(config) and (budget is not None or weights is not None):
        raise UserError(f"{config}: --budget and --weights are for a folder of data")
    checked, folder = apart(_config_to_run, config, overrides, out, budget, weights)
    status = pipeline.run(checked, folder, end)
    if status:
        raise RunFailed(f"{folder}: the run is not whole; see {Run(folder).log}")
    return load_run(folder)


def _config_to_run(
    config: ConfigLike, overrides: Sequence[str], out: FolderLike | None, budget: str | None,
    weights: FolderLike | None,
) -> tuple[Config, Path]:  # fmt: skip
    """(the config without mistakes, the run folder) of what `run` is given."""
    if is_data(config):
        from distseg.init.start import start

        assert isinstance(config, str | os.PathLike)
        config, out = start(Path(config), overrides, out, budget, weights)
        overrides = ()
    checked = checked_config(config, overrides, out=out)
    return checked, folder_of(checked, out)


def init(
    data: FolderLike, overrides: Sequence[str] = (), *, out: FolderLike | None = None,
    budget: str | None = None, weights: FolderLike | None = None,
) -> tuple[Path, list[str]]:  # fmt: skip
    """Write a config that fits a folder of data, this machine and a budget: `distseg init`.

    Args:
        overrides: keys of the config that are decided already, as `key=value`.
        out: the file to write, after which the config and its run folder are named; NAME.yaml by
            default, of the folder's name.
        budget: time that a run may take, as "30m" or "1h30m"; 30 minutes by default.
        weights: a folder of pretrained encoders, each a file NAME.safetensors.

    Returns:
        The file's path, and lines that say what it does.

    Raises:
        UserError: the data cannot be read, needs a decision, or the file is there already.
    """
    from distseg.init.start import init

    return init(Path(data), overrides, out, budget, weights)


def is_data(config: ConfigLike) -> bool:
    """Whether what `run` is given is a folder of data, and no config by its path or name."""
    if not isinstance(config, str | os.PathLike):
        return False
    path = Path(config)
    try:
        if not path.is_dir() or Run(path).config.is_file():
            return False
        return os.fspath(config) not in config_names()
    except (OSError, ValueError):
        return False


def checked_config(
    config: ConfigLike, overrides: Sequence[str] = (), *, out: FolderLike | None = None,
    default: str | None = RUN_FOLDER, **purpose: Any,
) -> Config:  # fmt: skip
    """The config, after everything has been looked at that can be known before the first job.
    UserError lists all mistakes.

    out, default: as `folder_of`; default None: the command writes to no folder. purpose: see
    `distseg.run.check.Purpose`.
    """
    from distseg.data.layouts import OWN_SPLIT, with_own_split
    from distseg.run.check import Purpose, refuse
    from distseg.tune.space import sweep_mistakes

    read, where = read_config(config, overrides)
    if read.config and with_own_split(read.config) is not read.config:
        read, where = read_config(config, [*overrides, OWN_SPLIT])
    extra: list[str] = []
    tried: Tried = {}
    if read.config and default is not None:
        purpose["run"] = Run(folder_of(read.config, out, default))
    if read.config and purpose.get("sweep"):
        extra = sweep_mistakes(read.config, tried)
    return refuse(read, where, Purpose(**purpose), extra, tried)


def folder_of(config: Config, out: FolderLike | None, default: str = RUN_FOLDER) -> Path:
    """The folder that a command writes to: `out`, else the default one of the config's name."""
    return Path(default.format(name=config.name)) if out is None else Path(out)


def read_config(config: ConfigLike, overrides: Sequence[str] = ()) -> tuple[Read, str]:
    """What a config says and what is wrong with its keys, and what messages call it."""
    if isinstance(config, str | os.PathLike):
        path = find_config(os.fspath(config))
        return read_tree(load_tree(path, list(overrides))), str(path)
    tree = _tree_of(config) if isinstance(config, Config) else dict(config)
    return read_tree(apply_overrides(tree, list(overrides))), "config"


def _tree_of(config: Config) -> dict[str, Any]:
    """A Config as a mapping of keys. How to divide the rows is no key of it where nobody has said
    so: the data set may have a split of its own."""
    tree = config.model_dump(mode="json")
    if "kind" not in config.data.folds.model_fields_set:
        del tree["data"]["folds"]["kind"]
    return tree


def load_run(folder: FolderLike) -> FinishedRun:
    """A run on disk: its config, scores, members and out-of-fold predictions. UserError: there is
    no run, or it has no ensemble yet."""
    from distseg.run.finished import FinishedRun

    return FinishedRun.load(folder)


def load_ensemble(folder: FolderLike) -> Ensemble:
    """The final ensemble of a run folder, or one that `distseg export` made, ready to predict.
    UserError: there is none, or a snapshot is missing or damaged."""
    from distseg.inference.ensemble import Ensemble

    return Ensemble.load(folder)


def predict_folder(
    run: FolderLike, images: FolderLike | Sequence[FolderLike], out: FolderLike, *,
    rle: FolderLike | None = None, values: str = "data",
    probabilities: FolderLike | None = None, overlays: FolderLike | None = None,
) -> list[tuple[str, str]]:  # fmt: skip
    """A PNG mask of each image of `images` into the folder `out`: `distseg predict`.

    Args:
        images: a folder with all below it, an image file, a glob, or several of them. A mask lies
            in `out` as its image lies below the folder that was named.
        rle: a file that gets a table of RLEs.
        values: of the masks: data: those of the data set's own masks; 255: 0 and 255; index: 0 and
            1, or class numbers.
        probabilities: a folder that gets ID.npy, float16 (C, H, W), before thresholds and rules.
        overlays: a folder that gets ID.png, the image with its masks in color.

    Returns:
        (id, reason) of images that could not be read; they have no mask.

    Raises:
        UserError: no images, or something would be written over an image or another's file.
    """
    from distseg.inference.predict_files import predict_files

    table, probs, drawn = (
        None if path is None else Path(path) for path in (rle, probabilities, overlays)
    )
    found = predict_files(
        Path(run), images, Path(out), table, values=values, probabilities=probs, overlays=drawn
    )
    return found.broken


def score_submission(
    submission: FolderLike, truth: FolderLike, *, run: FolderLike | None = None,
    metric: str | None = None, **options: Any,
) -> dict[str, Any]:  # fmt: skip
    """A submission against the truth, each a table of RLEs or a folder of masks: `distseg score`.

    Args:
        run: a run folder, or an exported ensemble, whose config says what the masks mean, and
            which metric counts.
        metric: by its name; that of the run by default. Needed without a run.
        options: values, images, height, width with a run, see `score_with_run` of
            distseg.submission.score_run; without, see distseg.submission.score.

    Returns:
        score, metric, standard_error, per_class and per_image.

    Raises:
        UserError: ids that do not match, masks that mean nothing, or an option that is not read.
    """
    from distseg.submission.score import score_submission
    from distseg.submission.score_run import score_with_run

    pair = Path(submission), Path(truth)
    if run is not None:
        return score_with_run(*pair, Path(run), metric=metric, **options)
    if metric is None:
        raise UserError("score: needs --metric NAME, or --run RUN")
    return score_submission(*pair, metric, **options)


def export_run(
    run: FolderLike, out: FolderLike, *, form: str = "ensemble", members: Sequence[str] = (),
    images: FolderLike | None = None, push: str | None = None, public: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Write the final ensemble of a run into the new folder `out`: `distseg export`.

    Args:
        form: ensemble: a folder that `load_ensemble` reads wherever it is moved; smp: each snapshot
            as `smp.from_pretrained` reads it; onnx, torch: each member as a graph.
        members: NAME:FOLD of those that go.
        images: real images to compare a graph with torch on; the run's own by default.
        push: OWNER/NAME of a repository of the model hub that gets the folder, too.
        public: whether everybody may see a repository that is new.

    Returns:
        What export.json holds; with `push` also `pushed`, the repository's address.

    Raises:
        UserError: `out` holds something, a member is unknown, or a network has no such form.
        distseg.export.graph.ExportFailed: a graph does not give torch's numbers to 1e-4.
        distseg.export.push.PushFailed: the hub has not taken it; `out` is there all the same.
    """
    from distseg.export.export import export_run
    from distseg.export.push import check_hub, push_folder

    if push is not None:
        check_hub(push)  # before anything is written
    folder = None if images is None else Path(images)
    record = export_run(Path(run), Path(out), form, members, folder)
    if push is not None:
        record["pushed"] = push_folder(Path(out), push, public=public)
    return record


def export_student(
    run: FolderLike, overrides: Sequence[str] = (), *, out: FolderLike | None = None,
    encoder: str = "", push: str | None = None, public: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Distill one small model from a finished run's ensemble: `distseg export RUN --student`.

    The student is a run of its own; the same call goes on with one that is not finished. Its model,
    the network of the first fold, lies in `model` of its folder: an ensemble that was exported.

    Args:
        overrides: changes of the student's config, as `members.student.encoder_weights=imagenet`.
        out: the folder of its run; RUN-student, beside the run, by default.
        encoder: of the student, a Unet; "": it is like the smallest model of the ensemble.
        push: OWNER/NAME of a repository of the model hub that gets its model, too.
        public: whether everybody may see a repository that is new.

    Returns:
        What export.json of the model holds; facts.student: score, share and costs. With `push` also
        `pushed`.

    Raises:
        UserError: the run has no ensemble or no data, the encoder is unknown, or the folder holds
            something else.
        RunFailed: no student finished.
        distseg.export.push.PushFailed: the hub has not taken it; the model is there all the same.
    """
    from distseg.export.push import check_hub, push_folder
    from distseg.jobs.apart import apart
    from distseg.run.student import default_folder, make_student

    if push is not None:
        check_hub(push)
    folder = default_folder(Path(run)) if out is None else Path(out)

    def check(config: Config, place: Path) -> Config:
        return apart(checked_config, config, overrides, out=place)

    record = make_student(Path(run), folder, encoder, check)
    if record is None:
        raise RunFailed(f"{folder}: the student's run is not whole; see {Run(folder).log}")
    if push is not None:
        record["pushed"] = push_folder(Run(folder).model, push, public=public)
    return record


def compare_runs(*runs: FolderLike, out: FolderLike | None = None) -> dict[str, Any]:
    """Finished runs side by side, the first against each of the others: `distseg compare`.

    Args:
        out: a folder that gets compare.json and compare.html.

    Returns:
        What compare.json holds: runs; pairs, with the difference on the common images, its paired
        standard error and 95 % interval, and the images that gained and lost most; config, the keys
        that differ.

    Raises:
        UserError: one run alone, or runs of other tasks, classes or images.
    """
    from distseg.run.summary import compare_runs

    if len(runs) < 2:
        raise UserError("compare: needs two runs or more")
    return compare_runs([Path(run) for run in runs], None if out is None else Path(out))
