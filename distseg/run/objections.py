"""What a run that has trained has against a change of its config, though the key may change:
weights, train sets and scores that later steps have used must stay what they were."""

from __future__ import annotations

from collections.abc import Iterator

from distseg.config.changes import ENSEMBLE, OUT_OF_FOLD, Change, config_changes, is_below
from distseg.config.load import load_config
from distseg.config.schema import Config
from distseg.config.training import CYCLIC
from distseg.records.errors import UserError
from distseg.records.files import read_json_or, read_lines
from distseg.records.finished_member import has_trained, planned_epochs
from distseg.records.paths import (
    MemberPaths,
    RoundKey,
    Run,
    is_teachers,
    members_on_disk,
    round_number,
)
from distseg.run.members import known_folds, known_members, round_keys

MEMBERSHIP = ("members.NAME", "members.NAME.folds", "data.folds.use", "rounds.0.members")
# What a job's own config may have otherwise than the run's.
OWN_OF_A_JOB = ("train.accumulation", "data.levels", "data.cache_dir")


class Objections:
    """Why changes are not possible in a run that has trained."""

    def __init__(self, before: Config, after: Config, run: Run) -> None:
        self.before, self.after, self.run = before, after, run
        self.folds = known_folds(before, run)
        several = range(1, len(before.rounds))
        self.later = [number for number in several if is_trained(run, number)]

    def to(self, change: Change) -> str | None:
        """Why a change is not possible; "" where its key may never change, None where it is."""
        if self._is_free(change):
            return None
        rule = change.rule
        if rule is None:
            return ""
        if is_below(change.keys, "train.evaluate_every"):
            return self._to_evaluations() or None
        if change.keys[-2:-1] == ("schedule",):
            return self._to_schedule(change) or None
        why = ""
        if any(is_below(change.keys, key) for key in MEMBERSHIP):
            why = self._to_members(change)
        elif OUT_OF_FOLD in rule.again and change.keys[0] == "predict":
            why = self._to_predictions()
        if not why and ENSEMBLE in rule.again and not is_below(change.keys, "rounds.0"):
            why = self._to_scores(change)
        return why or None

    def _is_free(self, change: Change) -> bool:
        """Whether a change is of a model or of rounds of which nothing is trained."""
        if change.keys[0] == "members" and len(change.keys) > 2:
            return not trained_of(self.run, change.keys[1])
        if change.keys[0] == "rounds" and change.keys[1] != "0":
            later = range(int(change.keys[1]), len(self.before.rounds))
            return not any(is_trained(self.run, number) for number in later)
        return False

    def _to_evaluations(self) -> str:
        for key in round_keys(self.before, self.run):
            for name in self.before.members:
                for stage in self.before.stages_of(name, key):
                    if stage.follows_evaluations:
                        return f"{name} follows the score of each evaluation"
        return ""

    def _to_schedule(self, change: Change) -> str:
        """Why members cannot go on to another length."""
        place = int(change.keys[change.keys.index("schedule") - 1])
        for key, name in self._trained_by(change):
            stages = self.before.stages_of(name, key)
            if place != len(stages) - 1:
                return f"stages come after it in {name}: only the last can go on"
            if change.keys[-1] == "epochs_per_cycle" and stages[-1].schedule.kind in CYCLIC:
                return "its cycles would be others; schedule.cycles may grow"
            if not stages[-1].can_go_on:
                return f"what {name} has trained would have been otherwise"
            if any(number > round_number(key) for number in self.later):
                return f"a later round has learned from the members of round {key}"
            for paths, trained, epochs in lengths_of(self.after, self.run, key, name):
                shorter = epochs < self.before.epochs_of(name, key)
                if why := _length_problem(paths, trained, epochs, shorter):
                    return why
        return ""

    def _trained_by(self, change: Change) -> Iterator[tuple[RoundKey, str]]:
        """(round, model) of the trained members whose stages a key is of."""
        for key in round_keys(self.before, self.run):
            for name in [one for one in self.before.members if one in self.after.members]:
                if self.before.recipe(key).stages is not None:
                    number = 0 if is_teachers(key) else key
                    own = change.keys[:3] == ("rounds", str(number), "stages")
                elif self.before.members[name].stages is not None:
                    own = change.keys[:3] == ("members", name, "stages")
                else:
                    own = change.keys[0] == "stages"
                if own and trained_of(self.run, name, key):
                    yield key, name

    def _to_members(self, change: Change) -> str:
        """Why members cannot come or leave."""
        for number in self.later:
            for fold in self.folds:
                if not self.run.train_set(number, fold).is_file():
                    continue
                if self._teachers(self.before, number, fold) != self._teachers(
                    self.after, number, fold
                ):
                    return f"round {number} has learned from the members that there were"
        return self._to_comeback(change.keys[1]) if change.keys[0] == "members" else ""

    def _teachers(self, config: Config, number: int, fold: int) -> set[tuple[str, int]]:
        """(name, fold) of whoever judges for the student of a fold; of pair teachers the names."""
        entry = config.rounds[number]
        planned = config.planned_members(self.folds, number - 1)
        found: set[tuple[str, int]] = set()
        if entry.makes_pseudo:
            found |= {one for one in planned if entry.judge == "all" or one[1] == fold}
        if entry.judges_labeled:
            pair, own = entry.judge == "pair", [one for one in planned if one[1] == fold]
            other = own if entry.judge == "fold" else planned
            found |= {(name, -1) for name in config.members} if pair else set(other)
        return found

    def _to_comeback(self, name: str) -> str:
        """Why a model cannot be added under a name that members on disk have."""
        for paths in trained_of(self.run, name):
            try:
                own = load_config(paths.config)
            except (UserError, OSError):
                return f"{paths.folder}: what it was trained with cannot be read"
            for change in config_changes(own, self.after):
                other = change.keys[0] == "members" and change.keys[1] != name
                known = change.rule is not None or change.key in OWN_OF_A_JOB
                if not other and not known:
                    return f"{paths.folder.name} is there and was trained otherwise: {change}"
        for key in round_keys(self.after, self.run):
            for paths, trained, epochs in lengths_of(self.after, self.run, key, name):
                if why := _length_problem(paths, trained, epochs, shorter=True):
                    return why
        return ""

    def _to_predictions(self) -> str:
        for number in self.later:
            entry = self.before.rounds[number]
            if entry.has_teachers or entry.hard_mining:
                return f"round {number} has learned from predictions that were made so"
        return ""

    def _to_scores(self, change: Change) -> str:
        """Why the scores of the ensembles before may not change."""
        for number in self.later:
            if not self.before.rounds[number].hard_mining:
                continue
            pair = [
                one.planned_members(self.folds, number - 1) for one in (self.before, self.after)
            ]
            if change.keys[0] in ("ensemble", "postprocess") or pair[0] != pair[1]:
                return f"rounds.{number}.hard_mining has drawn by the scores of the round before"
        return ""


def trained_of(run: Run, name: str, round: RoundKey | None = None) -> list[MemberPaths]:
    """The members of a model that have trained, in any round or in one."""
    return [
        paths
        for key, paths in members_on_disk(run)
        if paths.folder.name.rpartition("_fold")[0] == name
        and round in (None, key)
        and has_trained(paths)
    ]


def is_trained(run: Run, number: int) -> bool:
    return any(key == number and has_trained(paths) for key, paths in members_on_disk(run))


def lengths(config: Config, run: Run) -> Iterator[tuple[RoundKey, MemberPaths, int, int]]:
    """(round, files, epochs that are trained, epochs that the config wants) of the members on disk
    that the config asks for. Of one that has finished, what early stopping left out counts too."""
    for key in round_keys(config, run):
        for name in config.members:
            yield from ((key, *one) for one in lengths_of(config, run, key, name))


def lengths_of(
    config: Config, run: Run, round: RoundKey, name: str
) -> Iterator[tuple[MemberPaths, int, int]]:
    """The same of a model in a round, without the round."""
    for model, fold in known_members(config, run, round):
        paths = run.member(round, model, fold)
        if model == name and has_trained(paths):
            rows = [row.get("epoch", -1) for row in read_lines(paths.metrics)]
            trained = planned_epochs(read_json_or(paths.done, {})) or max(rows, default=-1) + 1
            yield paths, trained, config.epochs_of(name, round)


def _length_problem(paths: MemberPaths, trained: int, epochs: int, shorter: bool) -> str:
    """Why a member cannot end after so many epochs; "" where it can. One that is not done may have
    begun the next epoch."""
    done = paths.done.is_file()
    if trained > epochs or (shorter and not done and trained == epochs):
        return f"{paths.folder.name} has trained {trained} epochs"
    if trained < epochs and done and not (paths.state / "state.json").is_file():
        return f"{paths.folder.name} has kept no state to go on from"
    return ""
