"""How long a run still takes, over all that is left: training, out-of-fold prediction, ensembles,
later rounds, test prediction. By what the run itself has shown; arithmetic alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distseg.config.schema import Config
from distseg.functional.tta_names import num_passes
from distseg.records.files import read_lines
from distseg.records.manifest import Manifest
from distseg.records.paths import RoundKey, Run, is_teachers
from distseg.run.forecast import ENSEMBLE_S, ENSEMBLE_S_PER_VALUE, REPORT_S, makespan
from distseg.run.measure import pixels_share, share_of_folds
from distseg.run.member_status import MemberStatus, member_status
from distseg.run.members import known_members, round_keys
from distseg.run.work import FORWARD_SHARE, epoch_cost, num_snapshots

JOB_START_S = 8.0  # until a job has shown how long it takes to its first step: imports, weights
LEAST_SHARE = 0.02  # of a first epoch, before which its pace says nothing


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds that a member of one model takes: for an epoch of `epoch_cost` 1 with its evaluation,
    and for its out-of-fold prediction."""

    epoch: float
    out_of_fold: float


class Remaining:
    """The seconds that a run still takes, from its files. Holds what does not change meanwhile."""

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
        self.predicted: dict[str, float] = {}  # by model, its out-of-fold prediction once one ended
        self.start = JOB_START_S

    def seconds(self, key: RoundKey, statuses: Sequence[MemberStatus]) -> float | None:
        """From now to the report, while round `key` trains and its members stand as `statuses`
        says. None before anything has shown a pace."""
        self._learn(statuses, epoch_cost(self.config, key))
        earlier = self.keys[: self.keys.index(key)] if key in self.keys else []
        for before in reversed(earlier):
            if not self.shown:  # until this round shows a pace, it is that of the one before
                self._learn(self._statuses(before), epoch_cost(self.config, before))
        if not self.shown:
            return None
        start = self._job_start(key, statuses)
        total = self._training(key, statuses, start) + self._after(key, start)
        for later in self.keys[self.keys.index(key) + 1 :] if key in self.keys else []:
            waiting = self._statuses(later)
            total += self._training(later, waiting, start) + self._after(later, start)
        return total + self.predict_s(key) + (start if self.num_test else 0.0) + REPORT_S

    def _statuses(self, key: RoundKey) -> list[MemberStatus]:
        members = known_members(self.config, self.run, key)
        return [member_status(self.config, self.run, key, *member) for member in members]

    def predict_s(self, key: RoundKey) -> float:
        """The forward passes of the test prediction, by the ensemble of all members."""
        passes = sum(
            num_snapshots(self.config, name, key) * self._pass_s(name, key)
            for name, _ in known_members(self.config, self.run, key)
        )
        return self.num_test * self.test_share * self.passes * passes / self.num_slots

    def _learn(self, statuses: Sequence[MemberStatus], cost: float) -> None:
        """Take up what the members have shown so far, in a round whose epochs have this cost; what
        an earlier round has shown stays."""
        for name in {status.name for status in statuses}:
            own = [status for status in statuses if status.name == name]
            if (epoch := _epoch_s(own)) is not None:
                if shown := [s.oof_seconds for s in own if s.oof_seconds]:
                    self.predicted[name] = sum(shown) / len(shown)
                guess = self._guess_oof(own, epoch)
                self.shown[name] = Pace(epoch / cost, self.predicted.get(name, guess))

    def _pace(self, name: str) -> Pace:
        """Of a model, or the mean of the others while it has shown nothing."""
        if name in self.shown:
            return self.shown[name]
        others = list(self.shown.values())
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
        first = max((status.first_seconds for status in statuses), default=0.0)
        for status in statuses:
            if status.state in ("done", "failed"):
                continue
            pace = self._pace(status.name)
            epoch = pace.epoch * epoch_cost(self.config, key)
            left = max(0.0, status.epochs - status.epochs_done) * epoch
            oof = pace.out_of_fold * (1 - status.oof_share)
            begins = 0.0 if status.position else start / self.config.compute.members_per_job
            begins += 0.0 if status.epoch else first
            work.append(left + oof + begins)
        return makespan(work, self.num_slots)

    def _after(self, key: RoundKey, start: float) -> float:
        """The round's ensemble, and before a later round what its teachers say of the images."""
        if is_teachers(key) or not self.train:
            return 0.0
        number = int(key)
        kept = sum(num_snapshots(self.config, name, key) + 1 for name in self.config.members)
        pixels = sum(sample.height * sample.width for sample in self.train)
        fitted = [
            line["seconds"] for line in read_lines(self.run.ledger)
            if line.get("event") == "ensemble" and isinstance(line.get("seconds"), int | float)
        ]  # fmt: skip
        guess = ENSEMBLE_S + ENSEMBLE_S_PER_VALUE * pixels * self.config.num_outputs * kept
        if self.run.ensemble(number).is_file():
            return 0.0
        seconds = fitted[-1] if fitted else guess
        if number and self.config.rounds[number].makes_pseudo:
            seconds += self.predict_s(number) + start
        return seconds

    def _job_start(self, key: RoundKey, statuses: Sequence[MemberStatus]) -> float:
        """From the start of a job to its first step, as the jobs of this round have shown it, or
        those of the rounds before: `statuses` tells of this round's members alone."""
        started: dict[str, tuple[float, set[str]]] = {}
        shown = []
        trained = {s.label: s.seconds + (s.oof_seconds or 0.0) for s in statuses}
        for line in read_lines(self.run.ledger):
            job, when = str(line.get("job")), line.get("time")
            if not isinstance(when, int | float) or str(line.get("round")) != str(key):
                continue
            if line.get("event") == "job_started":
                started[job] = (when, set(line.get("members") or []))
            elif line.get("event") == "job_done" and job in started:
                began, members = started.pop(job)
                if members and members <= set(trained):
                    shown.append(when - began - sum(trained[label] for label in members))
        if useful := [seconds for seconds in shown if seconds > 0]:
            self.start = sum(useful) / len(useful)
        return self.start


def _epoch_s(statuses: Sequence[MemberStatus]) -> float | None:
    """Mean seconds of an epoch of one model, without what the first takes beyond the others; before
    the first, from the steps of the epoch that runs. None while nothing is known."""
    seen = [status for status in statuses if status.epoch]
    if seen:
        return sum(s.seconds - s.first_seconds for s in seen) / sum(s.epoch for s in seen)
    for status in statuses:
        position = status.position
        if position and position.phase == "train" and position.share >= LEAST_SHARE:
            return position.whole_s
    return None
