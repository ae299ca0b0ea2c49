"""How long a run still takes, over all that is left: training, out-of-fold prediction, ensembles,
later rounds, test prediction. By what the run itself has shown, and until it has shown anything by
what this machine is known for; arithmetic alone.
"""

from __future__ import annotations

import contextlib
import functools
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from distseg.config.schema import Config
from distseg.config.training import epoch_weights, weight_of_last
from distseg.functional.tta_names import num_passes
from distseg.jobs.hardware import Gpu, make_slots, num_cores, visible_gpus
from distseg.records.errors import UserError
from distseg.records.files import read_lines
from distseg.records.manifest import Manifest
from distseg.records.paths import RoundKey, Run, is_teachers
from distseg.records.progress import read_position
from distseg.run.forecast import (
    ENSEMBLE_S,
    ENSEMBLE_S_PER_VALUE,
    PREDICTION_START,
    REPORT_S,
    makespan,
    member_seconds,
    out_of_fold_seconds,
)
from distseg.run.measure import data_size, pixels_share, share_of_folds
from distseg.run.member_status import MemberStatus, member_status
from distseg.run.members import MemberKey, known_members, round_keys
from distseg.run.pace import known_paces
from distseg.run.plan import member_images
from distseg.run.running import running_jobs
from distseg.run.work import FORWARD_SHARE, epoch_cost, num_snapshots, work_of

JOB_START_S = 8.0  # until a job has shown how long it takes to its first step: imports, weights
LEAST_SHARE = 0.02  # of a first epoch, before which its pace says nothing
PREDICTS = re.compile(r"(predict-test|teach)(?:-round-(\d+))?(?:-\d+)?")  # labels of such jobs


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds that a member of one model takes: for an epoch of `epoch_cost` 1 at the size of its
    input, with its evaluation, and for its out-of-fold prediction."""

    epoch: float
    out_of_fold: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """A job that predicts images. kind: predict-test | teach. round: for which; None: the test
    images, by the final ensemble. began: seconds since the epoch."""

    kind: str
    round: int | None
    began: float


class Remaining:
    """The seconds that a run still takes, from its files. Holds what does not change meanwhile.

    num_slots: jobs that train at the same time; a prediction has the cores or GPUs of all."""

    def __init__(self, config: Config, run: Run, num_slots: int) -> None:
        self.config, self.run, self.num_slots = config, run, max(1, num_slots)
        self.keys = round_keys(config, run)
        self.train = list(Manifest.read(run.truth)) if run.truth.is_file() else []
        held = share_of_folds([sample.fold for sample in self.train]) or 0.0
        self.held = max(1.0, held * len(self.train))  # images of a fold, on average
        test = run.data / "test.csv"
        tests = list(Manifest.read(test)) if test.is_file() else []
        self.num_test = len(tests)
        self.test_share = pixels_share(tests, self.train)
        self.passes = num_passes(config.predict.tta)
        self.shown: dict[str, Pace] = {}
        self.remembered: dict[str, Pace] | None = None  # what the machine has shown before
        self.predicted: dict[str, float] = {}  # by model, its out-of-fold prediction once one ended
        self.start = JOB_START_S
        self.starts: dict[str, float] = {}  # of jobs, as seen, by the label of the first member
        self.members: dict[RoundKey, list[MemberKey]] = {}
        self.predictions: dict[Prediction, tuple[float, float]] = {}  # see `_around`
        self.ends: dict[Prediction, float] = {}  # as their own pace says it

    def seconds(self, key: RoundKey, statuses: Sequence[MemberStatus]) -> float | None:
        """From now to the report, while round `key` trains and its members stand as `statuses`
        says. None before anything is known of a pace."""
        if not self._know(key, statuses):
            return None
        start = self._job_start(key, statuses)
        training = self._training(key, statuses, start) + self._ensemble(key)
        return training + self._later(key, start)

    def seconds_of_prediction(self) -> float | None:
        """The same while the test images are predicted, or the teachers of a round predict. None:
        no such job runs, or nothing is known of a pace."""
        jobs = running_predictions(self.run)
        if not jobs:
            return None
        if (known := self.predictions.get(jobs[0])) is None:
            if (known := self._around(jobs[0])) is None:
                return None
            self.predictions[jobs[0]] = known  # what stays while the job runs
        whole, after = known
        return self._left_of(jobs[0], whole) + after

    def _around(self, job: Prediction) -> tuple[float, float] | None:
        """(seconds that the job takes, seconds of all that follows it); None: nothing is known."""
        key = self.keys[-1] if job.round is None else job.round
        statuses = self._statuses(key)
        if not self._know(key, statuses):
            return None
        start = self._job_start(key, statuses)
        whole = self._predicted_s(key, start)
        if job.round is None:
            return whole, REPORT_S
        if job.kind == "teach":
            training = self._training(key, statuses, start) + self._ensemble(key)
            return whole, training + self._later(key, start)
        return whole, self._later(key, start, predicted=True)

    def _left_of(self, job: Prediction, whole: float) -> float:
        """Seconds until the last of its processes is done; `whole` from its start, by the pace of
        the members, until they have shown their own."""
        places = [read_position(path) for path in self._progress(job)]
        new = [place for place in places if place and place.written >= job.began]
        known = [(place, place.whole_s) for place in new]
        now = time.time()
        if shown := [seconds * (1 - place.share) for place, seconds in known if seconds]:
            self.ends[job] = now + max(shown)
        # a process that is done takes its file away, before the last of them is
        return max(0.0, self.ends.get(job, job.began + whole) - now)

    def _progress(self, job: Prediction) -> list[Path]:
        """The files of its processes, and of those that share its work."""
        teach = job.kind == "teach"
        return [self.run.teach_progress] if teach else self.run.all_predict_progress()

    def _later(self, key: RoundKey, start: float, *, predicted: bool = False) -> float:
        """All that follows the ensemble of round `key`. predicted: its own submission is there."""
        later = self.keys[self.keys.index(key) + 1 :] if key in self.keys else []
        each = self.config.predict.every_round and len(self.config.rounds) > 1
        total = 0.0
        if each and not is_teachers(key) and not predicted:
            total += self._prediction(key, start)
        for one in later:
            if not is_teachers(one) and self.config.rounds[int(one)].makes_pseudo:
                total += self._predicted_s(one, start)  # what teachers say of the images
            total += self._training(one, self._statuses(one), start) + self._ensemble(one)
            total += self._prediction(one, start) if each and not is_teachers(one) else 0.0
        copied = each and self.config.ensemble.rounds != "search"  # it is a round's
        return total + (0.0 if copied else self._prediction(self.keys[-1], start)) + REPORT_S

    def _prediction(self, key: RoundKey, start: float) -> float:
        return self._predicted_s(key, start) if self.num_test else 0.0

    def _predicted_s(self, key: RoundKey, start: float) -> float:
        """Of a job that predicts the test images, where one that trains needs `start` seconds."""
        return PREDICTION_START * start + self.predict_s(key)

    def _know(self, key: RoundKey, statuses: Sequence[MemberStatus]) -> bool:
        """Learn what is known of the models' paces; False: nothing yet."""
        self._learn(statuses, key)
        earlier = self.keys[: self.keys.index(key)] if key in self.keys else []
        for before in reversed(earlier):
            if not self.shown:  # until this round shows a pace, it is that of the one before
                self._learn(self._statuses(before), before)
        if self.remembered is None:
            self.remembered = {}
            with contextlib.suppress(UserError, OSError):  # of data or a machine that is not here
                self.remembered = self._remember()
        return bool(self.shown or self.remembered)

    def _remember(self) -> dict[str, Pace]:
        """The paces that this machine has shown before, for models that have shown none yet."""
        if self.config.compute.executor != "local" or not self.train:
            return {}
        gpus, size = list(_gpus()), data_size(self.config, self.run)
        slot = make_slots(self.config.compute, gpus, num_cores())[0]
        paces = known_paces(self.config, size, slot, gpus)
        folds = len({sample.fold for sample in self.train if sample.fold >= 0})
        found = {}
        for name, pace in paces.items():
            images = member_images(self.config, name, size, folds)
            native = size.height, size.width
            work = work_of(self.config, name, images, self.held, native=native)
            out_of_fold = out_of_fold_seconds(work, pace)
            epoch = (member_seconds(work, pace) - out_of_fold) / sum(self._weights(name, 0))
            found[name] = Pace(epoch, out_of_fold)
            self.start = max(pace.start_s for pace in paces.values())
        return found

    def _members(self, key: RoundKey) -> list[MemberKey]:
        if key not in self.members:
            self.members[key] = known_members(self.config, self.run, key)
        return self.members[key]

    def _statuses(self, key: RoundKey) -> list[MemberStatus]:
        members = self._members(key)
        return [member_status(self.config, self.run, key, *member) for member in members]

    def predict_s(self, key: RoundKey) -> float:
        """The forward passes of the test prediction, by the ensemble of all members."""
        passes = sum(
            num_snapshots(self.config, name, key) * self._pass_s(name, key)
            for name, _ in self._members(key)
        )
        return self.num_test * self.test_share * self.passes * passes / self.num_slots

    def _weights(self, name: str, key: RoundKey) -> list[float]:
        """What each epoch of a member takes, beside one at the size of its input."""
        size = self.config.input_of(name)
        return epoch_weights(self.config.stages_of(name, key), (size.height, size.width))

    def _epoch_s(self, statuses: Sequence[MemberStatus], key: RoundKey) -> float | None:
        """Mean seconds of an epoch of one model at the size of its input, with its evaluations,
        without what the first takes beyond the others; before the first, from the steps of the
        epoch that runs. None while nothing is known."""
        name = statuses[0].name
        size, stages = self.config.input_of(name), self.config.stages_of(name, key)
        canvas, share = (size.height, size.width), dict[float, float]()
        share |= {number: stage.pixel_share(canvas) for number, stage in enumerate(stages)}
        if seen := [status for status in statuses if status.epoch]:
            trained = sum(share.get(stage, 1.0) for status in seen for stage in status.stages)
            return sum(s.seconds - s.first_seconds for s in seen) / trained
        for status in statuses:
            position = status.position
            if position and position.phase == "train" and position.share >= LEAST_SHARE:
                return position.whole_s and position.whole_s / share[0]
        return None

    def _learn(self, statuses: Sequence[MemberStatus], key: RoundKey) -> None:
        """Take up what the members of a round have shown so far; what an earlier round has shown
        stays."""
        cost = epoch_cost(self.config, key)
        for name in {status.name for status in statuses}:
            own = [status for status in statuses if status.name == name]
            if (epoch := self._epoch_s(own, key)) is not None:
                if shown := [s.oof_seconds for s in own if s.oof_seconds]:
                    self.predicted[name] = sum(shown) / len(shown)
                guess = self._guess_oof(own, epoch)
                self.shown[name] = Pace(epoch / cost, self.predicted.get(name, guess))

    def _pace(self, name: str) -> Pace:
        """Of a model; while it has shown nothing what the machine is known for, or the mean of the
        others."""
        known = {**(self.remembered or {}), **self.shown}
        if name in known:
            return known[name]
        others = list(known.values())
        epoch = sum(pace.epoch for pace in others) / len(others)
        return Pace(epoch, sum(pace.out_of_fold for pace in others) / len(others))

    def _guess_oof(self, statuses: Sequence[MemberStatus], epoch_s: float) -> float:
        """An evaluation's time for each pass and snapshot; a share of the epoch's without one."""
        evaluations = [s.eval_seconds for s in statuses if s.eval_seconds]
        once = sum(evaluations) / len(evaluations) if evaluations else epoch_s * FORWARD_SHARE
        if inner := self.config.train.inner_share:  # an evaluation is of other rows than the fold's
            once *= self.held / max(1.0, inner * (len(self.train) - self.held))
        return once * num_snapshots(self.config, statuses[0].name) * (self.passes + 1)

    def _pass_s(self, name: str, key: RoundKey) -> float:
        """One forward pass of one image through one snapshot, with all that belongs to it."""
        passes = num_snapshots(self.config, name, key) * (self.passes + 1)  # and once without TTA
        return self._pace(name).out_of_fold / (self.held * passes)

    def _training(self, key: RoundKey, statuses: Sequence[MemberStatus], start: float) -> float:
        """Until all members are trained and have predicted out of fold, on all slots."""
        work = []
        # a process that has trained a member has done most of that for those to come
        in_a_row = self.config.compute.members_per_job > 1
        beyond = [status.first_seconds for status in statuses if status.epoch > 1]
        first = (min if in_a_row else max)(beyond, default=0.0)
        for status in statuses:
            if status.state in ("done", "failed"):
                continue
            pace = self._pace(status.name)
            epoch = pace.epoch * epoch_cost(self.config, key)
            epochs = max(0.0, status.epochs - status.epochs_done)
            left = weight_of_last(self._weights(status.name, key), epochs) * epoch
            oof = pace.out_of_fold * (1 - status.oof_share)
            begins = 0.0 if status.position else start / self.config.compute.members_per_job
            begins += 0.0 if status.epoch else first
            work.append(left + oof + begins)
        return makespan(work, self.num_slots)

    def _ensemble(self, key: RoundKey) -> float:
        """Seconds that the round's ensemble takes; none where it is fitted."""
        if is_teachers(key) or not self.train or self.run.ensemble(int(key)).is_file():
            return 0.0
        fitted = [
            line["seconds"] for line in read_lines(self.run.ledger)
            if line.get("event") == "ensemble" and isinstance(line.get("seconds"), int | float)
        ]  # fmt: skip
        if fitted:
            return float(fitted[-1])
        kept = sum(num_snapshots(self.config, name, key) + 1 for name in self.config.members)
        pixels = sum(sample.height * sample.width for sample in self.train)
        return ENSEMBLE_S + ENSEMBLE_S_PER_VALUE * pixels * self.config.num_outputs * kept

    def _job_start(self, key: RoundKey, statuses: Sequence[MemberStatus]) -> float:
        """From the start of a job to its first step: as it was seen, else by what the jobs of this
        round took beyond their members' time, else as it was in the rounds before. `statuses` tells
        of this round's members alone."""
        started: dict[str, tuple[float, list[str]]] = {}
        stepped = {  # since when members are at the steps of their first epoch
            s.label: s.position.written - s.position.seconds for s in statuses
            if s.position and not s.epoch and s.position.phase == "train"
        }  # fmt: skip
        beyond = []
        trained = {s.label: s.seconds + (s.oof_seconds or 0.0) for s in statuses}
        for line in read_lines(self.run.ledger):
            job, when = str(line.get("job")), line.get("time")
            if not isinstance(when, int | float) or str(line.get("round")) != str(key):
                continue
            members = [str(label) for label in line.get("members") or []]
            if line.get("event") == "job_started" and members:
                started[job] = (when, members)
                if stepped.get(members[0], 0.0) > when:
                    self.starts[members[0]] = stepped[members[0]] - when
            elif line.get("event") == "job_done" and job in started:
                began, members = started.pop(job)
                if set(members) <= set(trained):
                    beyond.append(when - began - sum(trained[label] for label in members))
        if shown := [*self.starts.values()] or [seconds for seconds in beyond if seconds > 0]:
            self.start = sum(shown) / len(shown)
        return self.start


@functools.cache
def _gpus() -> tuple[Gpu, ...]:
    """They are asked for once: a process that watches does so every two seconds."""
    return tuple(visible_gpus())


def running_predictions(run: Run) -> list[Prediction]:
    """The jobs that predict images now."""
    found = []
    for label, line in running_jobs(run).items():
        if match := PREDICTS.fullmatch(label):
            (kind, number), when = match.groups(), line.get("time")
            began = float(when) if isinstance(when, int | float) else 0.0
            found.append(Prediction(kind, None if number is None else int(number), began))
    return found
