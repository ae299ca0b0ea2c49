"""`distseg tune`: a sweep as a Ray Tune experiment, on this machine or on a cluster.

A trial is a Tune function that reserves its cores or GPUs and starts the same `accelerate launch`
as every other job, as its child. So a trial is a run folder like any other, a broken one is no
more than a failed trial, and what a trial computes never passes through Ray: it reports scores.
"""

from __future__ import annotations

import functools
import logging
import os
import warnings
from pathlib import Path
from typing import Any

from distseg.config.load import dump_config, load_config
from distseg.config.schema import ComputeConfig, Config
from distseg.config.tune import TuneConfig
from distseg.jobs.hardware import Gpu, Slot, make_slots
from distseg.records import log
from distseg.records.errors import UserError, unknown
from distseg.records.files import atomic_write, remove_stale
from distseg.records.log import counted
from distseg.records.manifest import Manifest
from distseg.run.changes import check_same_sweep
from distseg.run.folder import driver_lock, refuse_foreign, stop_on_signals
from distseg.tune.space import Space, grid, longest_epochs, suggest, sweep_of
from distseg.tune.table import SweepFolder, Trial, write_results
from distseg.tune.trial import run_trial

logger = logging.getLogger("distseg.tune")
EXPERIMENT = "sweep"
# Read by Ray when it starts: no statistics sent out, no banners, signals are ours, and the state
# of the sweep on disk is at most so many seconds old.
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "2",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "2",
}


def tune(config: Config, folder: Path) -> int:
    """Run the sweep of `config.tune` in `folder`, or resume the one that it holds. The config has
    been looked at: `space_mistakes` finds none.

    Exit status: 0 done, 1 no trial has a score.

    Raises:
        UserError: a key or a value of the space is not valid, or `folder` holds another sweep.
        Stopped: a signal came; the same command resumes the sweep.
    """
    from distseg.data.prepare import open_cache, prepare

    longest = longest_epochs(config)
    sweep = SweepFolder(folder.resolve())
    with driver_lock(sweep.run), stop_on_signals():
        log.setup(sweep.run.log)
        _open(config, sweep)
        remove_stale(sweep.folder, below=True)
        shared = shared_config(sweep)
        shared = prepare(shared, sweep.run)
        _check_folds(shared, sweep)
        open_cache(shared, sweep.run)  # once, before the trials would all want to build it
        trials = _fit(shared, sweep, longest)
        best = write_results(config, sweep, trials)
    print(_summary(config, sweep, trials, best))
    return 1 if best is None else 0


def _summary(config: Config, sweep: SweepFolder, trials: list[Trial], best: Trial | None) -> str:
    """The last lines that `distseg tune` prints."""
    counts = {s: sum(t.status == s for t in trials) for s in ("finished", "stopped", "failed")}
    lines = [", ".join(f"{counted(n, 'trial')} {status}" for status, n in counts.items() if n)]
    lines.append(f"trials: {sweep.table}")
    if best is None:
        return "\n".join([*lines, "no trial has a score; the table says why"])
    luck = f"the best of {len(trials)}, so a little too good"
    setting = ", ".join(f"{path}={value}" for path, value in best.setting.items())
    lines.append(f"best: {config.metric} {best.score:.4f} ({luck})")
    lines.append(f"trial {best.name}, {best.status}: {setting}")
    return "\n".join([*lines, f"picture: {sweep.picture}", f"config: {sweep.best}"])


def _check_folds(config: Config, sweep: SweepFolder) -> None:
    """UserError for a fold that the data does not have."""
    known = Manifest.read(sweep.run.truth).folds
    for fold in sweep_of(config).folds:
        if fold not in known:
            raise unknown("fold", fold, known, "tune.folds: ")


def _open(config: Config, sweep: SweepFolder) -> None:
    """Write the sweep's config; UserError when the folder holds another sweep."""
    path = sweep.run.config
    refuse_foreign(config, sweep.run)
    check_same_sweep(config, sweep.run)
    if path.is_file() and load_config(path).tune != config.tune:
        raise UserError(f"{path}: a sweep with another `tune` section; use another --out")
    sweep.folder.mkdir(parents=True, exist_ok=True)
    atomic_write(path, dump_config(config))


def shared_config(sweep: SweepFolder) -> Config:
    """The sweep's config with one decode cache for all of its trials."""
    config = load_config(sweep.run.config)
    folder = str(Path(config.data.cache_dir or sweep.run.cache).resolve())
    data = config.data.model_copy(update={"cache_dir": folder})
    return config.model_copy(update={"data": data})


# -- the driver -----------------------------------------------------------------------------------


def _fit(config: Config, sweep: SweepFolder, longest: int) -> list[Trial]:
    """Run or resume the experiment; all trials, in the order in which they were made."""
    import ray
    from ray import tune as ray_tune

    _start_ray()
    try:
        resources = _resources(config.compute)
        arguments = {"folder": str(sweep.folder), "start": str(Path.cwd())}
        function = ray_tune.with_parameters(trial, cores=resources["CPU"], **arguments)
        trainable = ray_tune.with_resources(function, resources)
        path = str(sweep.ray / EXPERIMENT)
        if ray_tune.Tuner.can_restore(path):
            logger.info("resuming the sweep of %s", sweep.folder)
            # A trial that goes on reports its first epochs again, which the search knows.
            warnings.filterwarnings("ignore", "The reported value is ignored", module="optuna")
            tuner = ray_tune.Tuner.restore(path, trainable, resume_errored=True)
        else:
            tuner = _make_tuner(trainable, sweep_of(config), sweep, longest)
        return [_record(result) for result in tuner.fit()]
    finally:
        ray.shutdown()


def _start_ray() -> None:
    """The cluster that RAY_ADDRESS names, or one within this process on this machine's slots."""
    from distseg.jobs.ray import connect

    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    connect()


def _resources(compute: ComputeConfig) -> dict[str, float]:
    """Cores and GPUs of a trial: those of a slot of the largest node."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    largest = max(nodes, key=lambda node: (node.get("GPU", 0), node.get("CPU", 0)))
    cores, num_gpus = int(largest.get("CPU", 1)), int(largest.get("GPU", 0))
    gpus = [Gpu(str(number), "GPU", 0) for number in range(num_gpus)]
    slots = make_slots(compute, gpus, cores)
    found: dict[str, float] = {"CPU": max(1, cores // len(slots))}
    return found | ({"GPU": compute.gpus_per_job} if gpus else {})


def make_sampler(tune: TuneConfig) -> Any:
    """Optuna's sampler that draws the settings. A grid's are known and handed over one by one."""
    import optuna

    kind = optuna.samplers.TPESampler if tune.search == "optuna" else optuna.samplers.RandomSampler
    return kind(seed=tune.seed)


def _make_tuner(trainable: Any, tune: TuneConfig, sweep: SweepFolder, longest: int) -> Any:
    import optuna
    from ray import tune as ray_tune
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    known = grid(tune.space)[: tune.num_trials] if tune.search == "grid" else None
    # Optuna draws, Ray decides when: the search lies in Ray's records, which it writes every two
    # seconds, so that a sweep that was killed goes on drawing where it was.
    search = OptunaSearch(
        functools.partial(_suggest, tune.space),
        metric="score",
        mode="max",
        points_to_evaluate=known,
        sampler=make_sampler(tune),
    )
    return ray_tune.Tuner(
        trainable,
        tune_config=ray_tune.TuneConfig(
            metric="score",
            mode="max",
            search_alg=search,
            scheduler=_scheduler(tune, longest),
            num_samples=tune.num_trials if known is None else len(known),
            max_concurrent_trials=tune.max_concurrent,
            time_budget_s=tune.time_budget_s,
            # An actor that is used again has the environment and the processes of its last trial.
            reuse_actors=False,
            # One name for a trial's run folder and for Ray's records of it.
            trial_dirname_creator=lambda made: made.trial_id,
        ),
        run_config=ray_tune.RunConfig(
            name=EXPERIMENT,
            storage_path=str(sweep.ray),
            callbacks=[_lines_callback(sweep)],
            verbose=0,
        ),
    )


def _suggest(space: Space, trial: Any) -> None:
    """`suggest` as OptunaSearch calls it: it notes itself what was drawn."""
    suggest(space, trial)


def _scheduler(tune: TuneConfig, longest: int) -> Any:
    """ASHA or the median rule over epochs. A trial that reaches its last epoch is never stopped
    there: its out-of-fold score is still to come."""
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule

    if tune.scheduler == "asha":
        return ASHAScheduler(
            time_attr="epoch",
            max_t=max(longest, tune.grace_epochs),
            grace_period=tune.grace_epochs,
            reduction_factor=tune.reduction_factor,
            stop_last_trials=False,
        )
    if tune.scheduler == "median":
        return MedianStoppingRule(time_attr="epoch", grace_period=tune.grace_epochs)
    return FIFOScheduler()


def _lines_callback(sweep: SweepFolder) -> Any:
    """One line of the log for each trial that ends."""
    from ray import tune as ray_tune

    class Lines(ray_tune.Callback):
        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            last = trial.last_result or {}
            ended = sum(t is trial or t.is_finished() for t in trials)
            what = "finished" if last.get("finished") else "stopped"
            text = "trial %s %s after %s epochs, score %.4f (%d ended)"
            score = last.get("score", float("nan"))
            logger.info(text, trial.trial_id, what, last.get("epoch", 0), score, ended)

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            logger.error("trial %s failed; see %s", trial.trial_id, sweep.trial(trial.trial_id))

    return Lines()


def _record(result: Any) -> Trial:
    """A trial as Tune remembers it."""
    last = result.metrics or {}
    status = "finished" if last.get("finished") else "failed" if result.error else "stopped"
    error = str(result.error).strip().splitlines()[-1] if result.error else ""
    return Trial(
        name=Path(result.path).name,
        setting=dict(result.config),
        status=status,
        score=last.get("score"),
        epochs=int(last.get("epoch", 0)),
        seconds=float(last.get("time_total_s", 0.0)),
        error=error,
    )


# -- inside a trial's process ---------------------------------------------------------------------


def trial(setting: dict[str, Any], *, folder: str, start: str, cores: int) -> None:
    """One trial, in a process of Ray's: see `run_trial`.

    start: where the driver was started, which relative paths of the config are relative to.
    """
    from ray import tune as ray_tune

    os.chdir(start)  # Ray moves each trial into a folder of its own
    # Both are read anew: what Ray sends along would be pickled, and could be another version's.
    sweep = SweepFolder(Path(folder))
    config, name = shared_config(sweep), ray_tune.get_context().get_trial_id()
    run_trial(config, sweep, name, setting, slot_here(config.compute, cores), ray_tune.report)


def slot_here(compute: ComputeConfig, cores: int) -> Slot:
    """The slot that Ray gave to this process: its GPUs by the names that Ray sets."""
    import ray

    names = os.environ.get("CUDA_VISIBLE_DEVICES", "") if ray.get_gpu_ids() else ""
    devices = tuple(name for name in names.split(",") if name)
    processes = compute.processes_per_job or max(1, len(devices))
    return Slot(0, devices, processes, compute.cpu_threads or max(1, int(cores) // processes))
