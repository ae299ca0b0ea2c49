"""A finished run whose config changes: what is made again, what stays, what is refused."""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from distseg.config.load import apply_overrides, parse_config
from distseg.config.schema import Config
from distseg.data.prepare import prepare
from distseg.jobs.job import Job
from distseg.records.errors import UserError
from distseg.records.files import append_line, mark_done, read_json, read_json_or, read_lines
from distseg.records.finished_member import is_done, why_again
from distseg.records.paths import Run, final_ensemble, members_on_disk
from distseg.run import pipeline
from distseg.run.changes import change_lines, check_same, find_changes
from distseg.run.ending import one_model_more
from distseg.run.folder import open_run
from distseg.run.plan import make_jobs, plan
from distseg.run.status import status_text
from distseg.run.until import Until
from distseg.run.work import work_of
from distseg.training.train import train_member
from tests.run.in_process import (
    InProcess,
    all_weights,
    config_of,
    differing,
    files_of,
    small_tree,
    start,
)

Tree = dict[str, Any]
EDIT = Callable[[Tree], Any]
MEMBERS = ["a_fold0", "a_fold1", "b_fold0", "b_fold1"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A whole run. Tests copy it."""
    run = Run(tmp_path_factory.mktemp("finished") / "run")
    with pytest.MonkeyPatch.context() as patch:
        status, done = start(config_of(small_tree()), run, patch)
    assert status == 0 and done.trained == ["a:0", "a:1", "b:0", "b:1"] and done.predicted
    return run


@pytest.fixture
def run(finished: Run, tmp_path: Path) -> Run:
    shutil.copytree(finished.folder, tmp_path / "run")
    return Run(tmp_path / "run")


def changed(*edits: EDIT, tree: Tree | None = None) -> Config:
    tree = copy.deepcopy(tree or small_tree())
    for edit in edits:
        edit(tree)
    return config_of(tree)


def outdated(run: Run) -> list[str]:
    """Members that are marked to be made again."""
    found = members_on_disk(run)
    return [p.folder.name for _, p in found if why_again(read_json_or(p.done, {}))]


def cycles(number: int) -> EDIT:
    return lambda tree: tree["stages"][0]["schedule"].update(cycles=number)


# key: (change, members that are made again, whether the ensemble is, whether the submission is even
# where the ensemble comes out the same)
NOTHING: tuple[list[str], bool, bool] = ([], False, False)
MATRIX: dict[str, tuple[EDIT, list[str], bool, bool]] = {
    "name": (lambda t: t.update(name="other"), *NOTHING),
    "compute.slots": (lambda t: t["compute"].update(slots=3), *NOTHING),
    "compute.executor": (lambda t: t["compute"].update(executor="ray"), *NOTHING),
    "compute.retries": (lambda t: t["compute"].update(retries=5), *NOTHING),
    "data.cache_dir": (lambda t: t["data"].update(cache_dir="elsewhere"), *NOTHING),
    "train.evaluate_every": (lambda t: t["train"].update(evaluate_every=2), *NOTHING),
    "train.keep_state": (lambda t: t["train"].update(keep_state=False), *NOTHING),
    "stop": (lambda t: t.update(stop="no_gain"), *NOTHING),
    "predict.batch_size": (lambda t: t.update(predict={"batch_size": 3}), *NOTHING),
    "predict.every_round": (lambda t: t.update(predict={"every_round": True}), *NOTHING),
    "predict.tta": (lambda t: t.update(predict={"tta": []}), MEMBERS, True, True),
    "ensemble.weights": (lambda t: t["ensemble"].update(weights="search"), [], True, False),
    "ensemble.space": (lambda t: t["ensemble"].update(space="prob"), [], True, False),
    "ensemble.simpler": (lambda t: t["ensemble"].update(simpler="search"), [], True, False),
    "ensemble.snapshots": (lambda t: t["ensemble"].update(snapshots="all"), [], True, False),
    "postprocess.threshold": (lambda t: t.update(postprocess={"threshold": 0.4}), [], True, False),
    "postprocess.min_area": (lambda t: t.update(postprocess={"min_area": 9}), [], True, False),
    "submission.per_object": (
        lambda t: t.update(submission={"per_object": True}), [], False, True,
    ),
    "data.folds.use": (lambda t: t["data"]["folds"].update(use=[1]), [], True, False),
    "a model more": (lambda t: t["members"].update(c=dict(t["members"]["a"])), [], True, False),
    "a model less": (lambda t: t["members"].pop("b"), [], True, False),
    "members.b.folds": (lambda t: t["members"]["b"].update(folds=[0]), [], True, False),
    "stages.0.schedule.cycles": (cycles(3), MEMBERS, True, False),
    "a round more": (
        lambda t: t.update(rounds=[{"kind": "supervised"}, {"kind": "pseudo_label"}]),
        [], True, False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("key", MATRIX)
def test_what_a_key_makes_again(run: Run, key: str) -> None:
    edit, members, ensemble, submission = MATRIX[key]
    before, config = files_of(run.folder / "round_0" / "members"), changed(edit)
    text = plan(config, run)  # says so, and changes nothing
    assert outdated(run) == [] and not run.changes.exists()
    found = find_changes(config, run)
    assert "the config has changed" in text
    assert all(line in text for line in change_lines(found))

    open_run(config, run)
    assert outdated(run) == members
    assert bool(why_again(read_json(run.ensemble(0)))) == ensemble
    assert bool(why_again(read_json(run.final))) == submission
    after = files_of(run.folder / "round_0" / "members")
    touched = sorted(name for name in before if before[name] != after[name])
    assert touched == [f"{name}/DONE" for name in members]
    (entry,) = json.loads(run.changes.read_text())
    assert list(entry["changed"]) == [str(one.key) for one in found.changes]
    assert entry["time"] > 0 and entry["made_again"] == found.again
    assert find_changes(config, run).changes == []  # config.yaml has them now
    status_text(run.folder)


REFUSED: dict[str, tuple[EDIT, str]] = {
    "encoder": (lambda t: t["members"]["a"]["decoder"].update(filters=8),
                r"members\.a\.decoder\.filters: 4 -> 8"),
    "seed": (lambda t: t.update(seed=1), r"seed: 0 -> 1"),
    "metric": (lambda t: t.update(metric="iou"), r"metric: 'dice' -> 'iou'"),
    "precision": (lambda t: t["compute"].update(precision="bf16"), r"compute\.precision: 'fp32'"),
    "batch": (lambda t: t["train"].update(batch_size=4), r"train\.batch_size: 8 -> 4"),
    "accumulation": (lambda t: t["train"].update(accumulation=2), r"train\.accumulation: 1 -> 2"),
    "input": (lambda t: t["input"].update(height=64), r"input\.height: 32 -> 64"),
    "folds": (lambda t: t["data"]["folds"].update(num=3), r"data\.folds\.num: 2 -> 3"),
    "augment": (lambda t: t["augment"].pop(), r"augment\.1: taken away"),
    "lr": (lambda t: t["stages"][0]["optimizer"].update(lr=0.1), r"stages\.0\.optimizer\.lr"),
    "a longer cycle": (lambda t: t["stages"][0]["schedule"].update(epochs_per_cycle=2),
                       r"epochs_per_cycle: 1 -> 2 \(its cycles would be others"),
    "fewer cycles": (cycles(1), r"schedule\.cycles: 2 -> 1 \(a_fold0 has trained 2 epochs\)"),
    "a stage more": (lambda t: t["stages"].append(dict(t["stages"][0])), r"stages\.1: added"),
    "two": (lambda t: t.update(seed=1, metric="iou"), r"seed: 0 -> 1; metric: 'dice' -> 'iou'"),
}  # fmt: skip


@pytest.mark.parametrize("key", REFUSED)
def test_what_is_refused_leaves_all_as_it_was(run: Run, key: str) -> None:
    edit, message = REFUSED[key]
    before = files_of(run.folder)
    for act in (open_run, lambda config, run: plan(config, run)):
        with pytest.raises(UserError, match=message) as error:
            act(changed(edit), run)
        assert "\n" not in str(error.value) and "another --out" in str(error.value)
    assert files_of(run.folder) == before


def test_changes_one_after_another(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """With real work: nothing that was trained is trained again, and all follows the new config."""
    before, tree = all_weights(run), small_tree()
    tree["postprocess"] = {"threshold": 0.3}
    status, done = start(config_of(tree), run, monkeypatch)
    assert status == 0 and done.trained == [] and done.predicted
    logit = final_ensemble(run)["rule"]["threshold"][0]
    assert torch.sigmoid(torch.tensor(logit)).item() == pytest.approx(0.3)

    tree["predict"] = {"tta": []}
    oof = files_of(run.member(0, "a", 0).oof)
    status, done = start(config_of(tree), run, monkeypatch)
    assert status == 0 and len(done.trained) == 4 and done.predicted
    assert final_ensemble(run)["tta"] == []
    assert files_of(run.member(0, "a", 0).oof) != oof

    del tree["members"]["b"]
    tree["members"]["c"] = {**tree["members"]["a"], "seed": 3}
    status, done = start(config_of(tree), run, monkeypatch)
    assert status == 0 and done.trained == ["c:0", "c:1"] and done.predicted
    assert set(final_ensemble(run)["weights"]) >= {"a", "c"}
    report = read_json(run.report_json)
    assert report["unused"] == ["0:b_fold0", "0:b_fold1"] and report["partial"] is None
    assert "not used any more, but still there: 0:b_fold0" in status_text(run.folder)

    after = all_weights(run)
    assert before.keys() < after.keys() and differing(before, after) == []
    assert len(json.loads(run.changes.read_text())) == 3
    status, done = start(config_of(tree), run, monkeypatch)
    assert status == 0 and done.jobs == []  # nothing is left to do


@pytest.mark.parametrize("keep", ["cycles", "last"])
def test_more_cycles_go_on_to_what_they_would_have_been(tmp_path: Path, keep: str) -> None:
    torch.set_num_threads(1)
    tree = small_tree()
    tree["members"].pop("b")
    tree["stages"][0]["keep"] = keep
    short, long = changed(tree=tree), changed(cycles(3), tree=tree)
    run, whole = Run(tmp_path / "run"), Run(tmp_path / "whole")
    for config, one in ((short, run), (long, whole)):
        open_run(config, one)
        prepare(config, one)
        train_member(config, one.folder, 0, "a", 0)
    first = all_weights(run)
    open_run(long, run)
    assert not is_done(run.member(0, "a", 0))
    train_member(long, run.folder, 0, "a", 0)
    again, undisturbed = all_weights(run), all_weights(whole)
    assert again.keys() == undisturbed.keys() and differing(again, undisturbed) == []
    assert len(again) == (3 if keep == "cycles" else 1) and differing(first, again) == []
    rows = [row["epoch"] for row in read_lines(run.member(0, "a", 0).metrics)]
    assert rows == [0, 1, 2]
    shutil.rmtree(run.member(0, "a", 0).state)
    with pytest.raises(UserError, match=r"a_fold0 has kept no state to go on from"):
        open_run(changed(cycles(4), tree=tree), run)


def test_what_cannot_go_on(run: Run) -> None:
    """Longer schedules under which the earlier epochs would have been others."""
    edits: dict[str, EDIT] = {
        "swa": lambda t: t["stages"][0].update(swa=True),
        "slide": lambda t: t["stages"][0].update(positive_share=[0.5, 0.8]),
    }
    for edit in edits.values():
        (run.config).write_text(_dumped(changed(edit)))
        with pytest.raises(UserError, match="what a has trained would have been otherwise"):
            open_run(changed(edit, cycles(3)), run)
    tree = small_tree()
    tree["stages"] = [tree["stages"][0], copy.deepcopy(tree["stages"][0])]
    run.config.write_text(_dumped(config_of(tree)))
    with pytest.raises(UserError, match="stages come after it in a"):
        open_run(changed(cycles(3), tree=tree), run)


def _dumped(config: Config) -> str:
    from distseg.config.load import dump_config

    return dump_config(config)


def test_scores_that_weights_follow_are_measured_as_before(run: Run) -> None:
    best: EDIT = lambda t: t["stages"][0].update(keep="best")  # noqa: E731
    run.config.write_text(_dumped(changed(best)))
    with pytest.raises(UserError, match="follows the score of each evaluation"):
        open_run(changed(best, lambda t: t["train"].update(evaluate_every=2)), run)


class Killed(BaseException):
    pass


def test_killed_while_a_change_is_taken_over(
    finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every rename: what is left goes on with the new config, and with the old one too."""
    old, new = changed(), changed(lambda t: t.update(predict={"tta": []}), cycles(3))
    original, kills, whole = Path.replace, 0, False
    while not whole:
        run, left = Run(tmp_path / str(kills)), kills
        shutil.copytree(finished.folder, run.folder)

        def replace(path: Path, target: Path) -> Path:
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1
            return original(path, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", replace)
            try:
                open_run(new, run)
                whole = True
            except Killed:
                kills += 1
        if not whole:  # it may go back: what was marked is then to do, and no more
            assert find_changes(old, run).changes == []
            jobs = make_jobs(old, run, [("a", 0), ("a", 1), ("b", 0), ("b", 1)], 1)
            todo = [f"{name}_fold{fold}" for job in jobs for name, fold in job.members]
            assert sorted(todo) == outdated(run)
            open_run(new, run)
        assert outdated(run) == MEMBERS and find_changes(new, run).changes == []
        assert why_again(read_json(run.ensemble(0))) and why_again(read_json(run.final))
        assert len(json.loads(run.changes.read_text())) == 1
    assert kills == 9  # env.json, four members, two ensembles, the history, config.yaml


def test_before_the_first_epoch_all_may_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run whose first job fails at once: its config locks nothing, also not its folds."""
    run, tree = Run(tmp_path / "run"), small_tree()

    def fail(job: Job) -> None:
        if job.members:
            run.member(0, "a", 0).state.mkdir(parents=True, exist_ok=True)
            raise RuntimeError("it does not fit into memory")

    status, _ = start(config_of(tree), run, monkeypatch, before=fail)
    assert status == 1 and run.truth.is_file()
    rows = run.folds.read_text().count("\n")
    tree["data"]["folds"]["num"] = 3
    tree["data"]["synthetic"]["num_train"] = 30
    tree["members"] = {"a": {**tree["members"]["a"], "decoder": {"filters": 5, "depth": 2}}}
    tree["stages"][0]["schedule"]["cycles"] = 1
    assert "all may change" in plan(config_of(tree), run)
    status, done = start(config_of(tree), run, monkeypatch)
    assert status == 0 and done.trained == ["a:0", "a:1", "a:2"]
    assert run.folds.read_text().count("\n") == 31 != rows
    with pytest.raises(UserError, match=r"data\.folds\.num: 3 -> 2"):
        open_run(changed(), run)


def test_a_persons_folds_stay_when_all_may_change(run: Run) -> None:
    for _, paths in members_on_disk(run):
        paths.done.unlink()
        paths.metrics.unlink()
    run.folds.write_text(run.folds.read_text().replace(",0\n", ",1\n", 1))
    open_run(changed(lambda t: t["data"]["folds"].update(num=3)), run)
    assert run.folds.is_file() and not run.truth.is_file()


def test_a_model_that_has_trained_nothing_may_change(run: Run) -> None:
    """Its mistake locks nothing, while the others stay."""
    added: EDIT = lambda t: t["members"].update(c=dict(t["members"]["a"], seed=3))  # noqa: E731
    open_run(changed(added), run)
    paths = run.member(0, "c", 0)
    paths.state.mkdir(parents=True)
    smaller: EDIT = lambda t: t["members"]["c"].update(decoder={"filters": 3})  # noqa: E731
    open_run(changed(added, smaller), run)
    assert not paths.state.exists()
    append_line(paths.metrics, {"epoch": 0})
    with pytest.raises(UserError, match=r"members\.c\.decoder\.filters: 3 -> None"):
        open_run(changed(added, lambda t: t["members"]["c"].update(decoder={})), run)


def test_a_model_that_comes_back(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is used again as it is, and predicted again where that changed meanwhile; under its name
    comes no other."""
    tta: EDIT = lambda t: t.update(predict={"tta": ["vflip"]})  # noqa: E731
    other: EDIT = lambda t: t["members"]["b"].update(decoder={"filters": 6})  # noqa: E731
    open_run(changed(lambda t: t["members"].pop("b")), run)
    assert find_changes(changed(), run).refused == []
    with pytest.raises(UserError, match=r"b_fold0 is there and was trained otherwise: .*filters"):
        open_run(changed(other), run)
    open_run(changed(lambda t: t["members"].pop("b"), tta), run)
    open_run(changed(tta), run)
    assert outdated(run) == MEMBERS


def test_logits_of_snapshots_that_were_not_kept(run: Run) -> None:
    """`ensemble.snapshots: search` predicts again only the members that lack them."""
    means: EDIT = lambda t: t["ensemble"].update(snapshots="all")  # noqa: E731
    open_run(changed(means), run)
    assert outdated(run) == []
    paths = run.member(0, "b", 1)
    shutil.rmtree(paths.oof_snapshots)
    done = read_json(paths.done)
    done["files"] = {k: v for k, v in done["files"].items() if not k.startswith("oof_snapshots")}
    mark_done(paths.done, done)
    open_run(changed(), run)
    assert outdated(run) == ["b_fold1"]


def later_round(run: Run, tree: Tree, **entry: Any) -> None:
    """Make a finished run one whose round 1 has trained its student of fold 0."""
    tree["rounds"] = [{"kind": "supervised"}, {"kind": "pseudo_label", **entry}]
    run.config.write_text(_dumped(config_of(tree)))
    shutil.copy(run.truth, _made(run.train_set(1, 0)))
    append_line(run.member(1, "a", 0).metrics, {"epoch": 0})


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


ROUNDS: dict[str, tuple[dict[str, Any], EDIT, str]] = {
    "tta": ({}, lambda t: t.update(predict={"tta": []}), "round 1 has learned from predictions"),
    "a teacher more": ({}, lambda t: t["members"].update(c=dict(t["members"]["a"])),
                       "round 1 has learned from the members"),
    "a teacher less": ({}, lambda t: t["members"].pop("b"), "round 1 has learned from the members"),
    "the other fold's teachers": ({}, lambda t: t["data"]["folds"].update(use=[0]), ""),
    "teachers of all folds": ({"teacher": "all"}, lambda t: t["data"]["folds"].update(use=[0]),
                              "round 1 has learned from the members"),
    "cycles": ({}, cycles(3), "a later round has learned from the members of round 0"),
    "rules": ({}, lambda t: t.update(postprocess={"threshold": 0.3}), ""),
    "hard mining": ({"hard_mining": 1.0}, lambda t: t.update(postprocess={"threshold": 0.3}),
                    "hard_mining has drawn by the scores"),
    "its own key": ({}, lambda t: t["rounds"][1].update(top=3), r"rounds\.1\.top: None -> 3"),
}  # fmt: skip


@pytest.mark.parametrize("case", ROUNDS)
def test_a_later_round_keeps_what_it_has_learned_from(run: Run, case: str) -> None:
    entry, edit, message = ROUNDS[case]
    tree = small_tree()
    later_round(run, tree, **entry)
    if not message:
        open_run(changed(edit, tree=tree), run)
        assert run.train_set(1, 0).is_file()
        return
    with pytest.raises(UserError, match=message):
        open_run(changed(edit, tree=tree), run)


def test_train_sets_that_nobody_has_used_are_made_again(run: Run) -> None:
    tree = small_tree()
    later_round(run, tree)
    run.member(1, "a", 0).metrics.unlink()
    _made(run.taught(1, "unlabeled", "fold0") / "statistics.csv").write_text("")
    open_run(changed(lambda t: t.update(predict={"tta": []}), tree=tree), run)
    assert not run.train_set(1, 0).exists() and not run.select(1).exists()
    assert outdated(run) == MEMBERS


def test_a_process_without_a_driver_changes_nothing(run: Run) -> None:
    check_same(changed(lambda t: t["compute"].update(slots=2)), run)
    with pytest.raises(UserError, match="`distseg run` takes that over first"):
        check_same(changed(lambda t: t.update(predict={"tta": []})), run)


def test_an_early_end_says_what_it_lacks_and_goes_on(
    finished: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, tree = Run(tmp_path / "run"), small_tree()
    tree["compute"]["members_per_job"] = 1
    config, count = config_of(tree), 0

    def ask_early(job: Job) -> None:
        nonlocal count
        count += bool(job.members)
        if count == 3:
            os.kill(os.getpid(), signal.SIGUSR1)  # the third member is finished, the last not begun

    status, done = start(config, run, monkeypatch, before=ask_early)
    assert status == 0 and done.trained == ["a:0", "a:1", "b:0"] and done.predicted
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("PARTIAL: ended early (SIGUSR1): 3 of 4 members done")
    assert printed[0] == printed[-1] and "0:b_fold1" in printed[0]
    record = read_json(run.report_json)
    assert record["partial"]["missing"] == ["0:b_fold1"] and record["flag"] == "honest"
    assert "PARTIAL" in run.report_html.read_text() and "PARTIAL" in status_text(run.folder)
    members = {(m["name"].partition("#")[0], m["fold"]) for m in final_ensemble(run)["members"]}
    assert members == {("a", 0), ("a", 1), ("b", 0)}
    rows = run.submission.read_text()
    assert rows.count("\n") == 4

    status, done = start(config, run, monkeypatch)
    assert status == 0 and done.trained == ["b:1"] and done.predicted
    assert not run.partial.exists() and read_json(run.report_json)["partial"] is None
    assert "PARTIAL" not in run.report_html.read_text() + status_text(run.folder)
    weights, whole = all_weights(run), all_weights(finished)
    assert weights.keys() == whole.keys() and differing(weights, whole) == []
    assert run.submission.read_text() == finished.submission.read_text()


def test_an_early_end_with_nothing_finished_is_no_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path / "run")
    status, done = start(config_of(small_tree()), run, monkeypatch, until="0.001s")
    assert status == 1 and done.trained == [] and not run.partial.exists()


def test_a_round_that_could_not_be_whole_is_not_begun(run: Run, monkeypatch: Any) -> None:
    """Teachers and students of an early end: a train set of half of its teachers would stay."""
    tree = small_tree(rounds=[{"kind": "supervised"}, {"kind": "pseudo_label", "rules": {}}])
    status, done = start(config_of(tree), run, monkeypatch, until="0.001s")
    assert status == 0 and [one[0] for one in done.jobs] in ([], ["predict-test"])
    assert not list(run.round(1).glob("train_fold*.csv"))
    assert read_json(run.partial)["missing"] == [f"1:{name}" for name in MEMBERS]


def test_a_run_that_has_lost_its_config_keeps_to_its_members(run: Run) -> None:
    run.config.unlink()
    with pytest.raises(UserError, match=r"another config \(stages\.0\.optimizer\.lr: "):
        open_run(changed(lambda t: t["stages"][0].update(optimizer={"lr": 0.5})), run)
    assert not run.config.exists() and outdated(run) == []
    open_run(changed(), run)
    assert find_changes(changed(), run).changes == [] and outdated(run) == []
    run.config.unlink()
    for _, paths in members_on_disk(run):
        paths.config.write_text("- 1")
    with pytest.raises(UserError, match=r"config\.yaml: is lost, and what the members were"):
        open_run(changed(), run)


def test_one_model_more_is_always_one_that_the_run_can_have(run: Run) -> None:
    tree = small_tree()
    more = one_model_more(config_of(tree), run)
    assert more.startswith("members.a_seed1=")
    wider = parse_config(apply_overrides(tree, [more]), "test")
    open_run(wider, run)
    assert one_model_more(wider, run).startswith("members.a_seed2=")  # pasted once: the next one
    tree = small_tree(rounds=[{"kind": "supervised", "members": ["a", "b"]}])
    assert one_model_more(config_of(tree), run) == ""  # its round names who trains


def test_a_later_round_gets_no_model_more(run: Run) -> None:
    tree = small_tree()
    later_round(run, tree)
    assert one_model_more(config_of(tree), run) == ""


@pytest.mark.parametrize(("whole", "last"), [(True, 1), (False, 0)])
def test_an_early_end_leaves_out_a_worse_round_only_where_it_is_not_whole(
    run: Run, monkeypatch: pytest.MonkeyPatch, whole: bool, last: int
) -> None:
    tree = small_tree()
    later_round(run, tree)
    for name in MEMBERS if whole else MEMBERS[:2]:
        own, later = (run.folder / f"round_{n}/members/{name}" for n in (0, 1))
        shutil.copytree(own, later, dirs_exist_ok=True)
    monkeypatch.setattr(pipeline, "make_round", lambda *_: True)
    monkeypatch.setattr(pipeline, "read_score", lambda _, number: 0.5 - number / 10)
    until = Until(at=0.0)
    assert pipeline.make_rounds(config_of(tree), run, InProcess(run), until) == (last, True, 2)


def test_auto_evaluates_by_counts_and_where_snapshots_are_taken(tmp_path: Path) -> None:
    """24 images in 2 folds, 12 to train on and 12 to evaluate: every fourth epoch; with 3 steps of
    16 images an epoch, every epoch."""
    for steps, expected in ((None, [3, 4, 7, 9]), (3, list(range(10)))):
        tree = small_tree()
        tree["stages"][0]["schedule"] = {"kind": "cosine", "cycles": 2, "epochs_per_cycle": 5}
        tree["train"] |= {"batch_size": 16, "evaluate_every": "auto", "steps_per_epoch": steps}
        run = Run(tmp_path / f"run_{steps}")
        config = config_of(tree)
        open_run(config, run)
        train_member(prepare(config, run), run.folder, 0, "a", 0)
        rows = read_lines(run.member(0, "a", 0).metrics)
        assert [row["epoch"] for row in rows if row.get("score") is not None] == expected
        work = work_of(config, "a", (steps or 1) * (16 if steps else 12) * 10, 12)
        assert work.evaluations == len(expected)  # what `plan` counts
