"""A sweep on disk: its files, and what is left of it: best.yaml, trials.csv, tune.png."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distseg.config.load import dump_config
from distseg.config.schema import Config
from distseg.config.tune import DistributionConfig
from distseg.records.files import atomic_write
from distseg.records.paths import Run
from distseg.records.tables import write_table
from distseg.tune.space import Setting, sweep_of, with_setting

COLORS = {"finished": "tab:blue", "stopped": "tab:gray", "failed": "tab:red"}


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
        return self.folder / "best.yaml"

    @property
    def table(self) -> Path:
        return self.folder / "trials.csv"

    @property
    def picture(self) -> Path:
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
    """Score against each key, and below it every trial as a line across all keys."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    space = sweep_of(config).space
    scored = [trial for trial in trials if trial.score is not None]
    columns = min(3, len(space))
    rows = math.ceil(len(space) / columns)
    figure = Figure(figsize=(5 * columns, 3.5 * (rows + 1)), layout="constrained")
    grid = figure.add_gridspec(rows + 1, columns)
    for number, (path, entry) in enumerate(space.items()):
        axes = figure.add_subplot(grid[number // columns, number % columns])
        _scatter(axes, path, entry, scored, config.metric)
    _parallel(figure, figure.add_subplot(grid[rows, :]), space, scored, config.metric)
    image = io.BytesIO()
    FigureCanvasAgg(figure).print_png(image)
    atomic_write(sweep.picture, image.getvalue())


def _scatter(
    axes: Any, path: str, entry: DistributionConfig, trials: Sequence[Trial], metric: str
) -> None:
    drawn = [trial for trial in trials if path in trial.setting]
    for status, color in COLORS.items():
        own = [t for t in drawn if t.status == status]
        places = [_place(entry, t.setting[path]) for t in own]
        axes.plot(places, [t.score for t in own], "o", color=color, label=status)
    if entry.choice is not None:
        axes.set_xticks(range(len(entry.choice)), [str(value) for value in entry.choice])
    if entry.kind == "loguniform":
        axes.set_xscale("log")
    axes.set(xlabel=path, ylabel=metric)
    axes.legend()


def _place(entry: DistributionConfig, value: Any) -> float:
    """Where a value lies on its axis: a choice by its number."""
    return float(entry.choice.index(value) if entry.choice is not None else value)


def _share(entry: DistributionConfig, value: Any) -> float:
    """0 at the lowest value, 1 at the highest, logarithms of a loguniform between."""
    ends = (0.0, len(entry.choice) - 1.0) if entry.choice is not None else entry.bounds[:2]
    numbers = [_place(entry, value), *map(float, ends)]
    if entry.kind == "loguniform":
        numbers = [math.log(number) for number in numbers]
    place, low, high = numbers
    return (place - low) / (high - low) if high > low else 0.5


def _parallel(figure: Any, axes: Any, space: Any, trials: Sequence[Trial], metric: str) -> None:
    """Lines across the keys, colored by score; a key that was not drawn is a gap."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    trials = sorted(trials, key=lambda trial: trial.score or 0.0)
    scores = np.array([trial.score or 0.0 for trial in trials])
    colors = ScalarMappable(Normalize(scores.min(), scores.max()), "viridis")
    for trial, color in zip(trials, colors.to_rgba(scores), strict=True):
        heights = [
            _share(entry, trial.setting[path]) if path in trial.setting else math.nan
            for path, entry in space.items()
        ]
        axes.plot(heights, "o-", color=color, alpha=0.8)
    axes.set_xticks(range(len(space)), list(space))
    axes.set_yticks([0, 1], ["low", "high"])
    figure.colorbar(colors, ax=axes, label=metric)
