"""A sweep on disk: its files, and what is left of it: best.yaml, trials.csv, tune.png."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from distseg.config.load import dump_config
from distseg.config.schema import Config
from distseg.config.tune import DistributionConfig
from distseg.records.files import atomic_write
from distseg.records.paths import Run
from distseg.records.tables import write_table
from distseg.tune.space import Setting, Space, suggest_value, sweep_of, with_setting

ENOUGH = 10  # trials, from which on it is said which keys matter


@dataclass(frozen=True, slots=True)
class SweepFolder:
    """Names of everything below a sweep's folder."""

    folder: Path

    @property
    def run(self) -> Run:
        """The folder as a run's: config.yaml, folds.csv, the data's records, the decode cache."""
        return Run(self.folder)

    @property
    def ray(self) -> Path:
        """Ray Tune's own records and the TensorBoard logs."""
        return self.folder / "ray"

    def trial(self, name: str) -> Run:
        """The run folder of a trial."""
        return Run(self.folder / "trials" / name)

    @property
    def best(self) -> Path:
        """The config with the best setting."""
        return self.folder / "best.yaml"

    @property
    def table(self) -> Path:
        """trials.csv: one row a trial."""
        return self.folder / "trials.csv"

    @property
    def picture(self) -> Path:
        """tune.png: see `_draw`."""
        return self.folder / "tune.png"


@dataclass(frozen=True, slots=True)
class Trial:
    """What became of one setting. status: finished | stopped | failed.

    score: out-of-fold with TTA when finished; else that of the last evaluated epoch, if any.
    """

    name: str
    setting: Setting
    status: str
    score: float | None
    epochs: int
    seconds: float
    error: str = ""


def best_trial(trials: Sequence[Trial]) -> Trial | None:
    """The best of the finished trials; where none has finished, of those with a score."""
    scored = [trial for trial in trials if trial.score is not None and math.isfinite(trial.score)]
    finished = [trial for trial in scored if trial.status == "finished"]
    return max(finished or scored, key=lambda trial: trial.score or 0.0, default=None)


def write_results(config: Config, sweep: SweepFolder, trials: Sequence[Trial]) -> Trial | None:
    """Write trials.csv, tune.png and, where a trial has a score, best.yaml; returns the best."""
    _write_table(config, sweep, trials)
    best = best_trial(trials)
    if best is not None:
        header = f"# trial {best.name}: {config.metric} {best.score:.6f}, {best.status}\n"
        header += f"# distseg run {sweep.best}\n"
        atomic_write(sweep.best, header + dump_config(with_setting(config, best.setting)))
        _draw(config, sweep, trials)
    return best


def _write_table(config: Config, sweep: SweepFolder, trials: Sequence[Trial]) -> None:
    paths, rows = list(sweep_of(config).space), []
    for t in trials:
        score = "" if t.score is None else f"{t.score:.6f}"
        values = [t.setting.get(path, "") for path in paths]
        rows.append([t.name, t.status, score, t.epochs, f"{t.seconds:.1f}", *values, t.error])
    header = ["id", "status", "score", "epochs", "seconds", *paths, "error"]
    write_table(sweep.table, header, rows)


# -- the picture ----------------------------------------------------------------------------------


def _draw(config: Config, sweep: SweepFolder, trials: Sequence[Trial]) -> None:
    """Optuna's plots one below the other: the score against each key, every trial as a line
    across the keys and, with enough trials, how much each key matters (PED-ANOVA, Watanabe et
    al. 2023, arXiv 2304.10255)."""
    import matplotlib.pyplot as plt
    import optuna
    from optuna.visualization import matplotlib as plots

    plt.switch_backend("agg")  # a file, not a window
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of experimental functions, and of axes with one value
        study = _study(sweep_of(config).space, trials)
        drawn = [set(trial.params) for trial in study.trials]
        everywhere = sorted(set.intersection(*drawn))  # a line needs a point on every axis
        axes = [plots.plot_slice(study, target_name=config.metric)]
        if everywhere:
            axes.append(
                plots.plot_parallel_coordinate(study, everywhere, target_name=config.metric)
            )
        if len(drawn) >= ENOUGH:
            evaluator = optuna.importance.PedAnovaImportanceEvaluator()
            axes.append(plots.plot_param_importances(study, evaluator=evaluator))
        width = max(8.0, 3.5 * len(set.union(*drawn)))  # inches: labels must not overlap
        pictures = [_picture(np.ravel(one)[0].figure, width) for one in axes]
        plt.close("all")
    pixels = max(picture.shape[1] for picture in pictures)
    padded = [
        np.pad(p, ((0, 0), (0, pixels - p.shape[1]), (0, 0)), constant_values=255) for p in pictures
    ]
    image = io.BytesIO()
    Image.fromarray(np.concatenate(padded)).save(image, "PNG")
    atomic_write(sweep.picture, image.getvalue())


def _picture(figure: Any, width: float) -> NDArray[np.uint8]:
    """uint8 (H, W, 4) of a matplotlib figure `width` inches wide, whole labels included."""
    figure.set_size_inches(width, 4.8)
    image = io.BytesIO()
    figure.savefig(image, format="png", bbox_inches="tight")
    return np.asarray(Image.open(image).convert("RGBA"))


def _study(space: Space, trials: Sequence[Trial]) -> Any:
    """The trials with a score as Optuna's study, which its plots are made of."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    optuna.logging.set_verbosity(before)
    for trial in trials:
        if trial.score is None or not math.isfinite(trial.score):
            continue
        drawn = {path: _as_text(space[path], value) for path, value in trial.setting.items()}
        study.enqueue_trial({path: value for path, (_, value) in drawn.items()})
        asked = study.ask()
        for path, (distribution, _) in drawn.items():
            suggest_value(distribution, path, asked)
        study.tell(asked, trial.score)
    return study


def _as_text(distribution: DistributionConfig, value: Any) -> tuple[DistributionConfig, Any]:
    """A distribution and its value, choices as text: Optuna's plots take no lists and mappings."""
    if distribution.choice is None:
        return distribution, value
    simple = all(isinstance(one, str | int | float | None) for one in distribution.choice)
    texts = [str(v) if simple else f"{i}: {str(v)[:30]}" for i, v in enumerate(distribution.choice)]
    return distribution.model_copy(update={"choice": texts}), texts[
        distribution.choice.index(value)
    ]
