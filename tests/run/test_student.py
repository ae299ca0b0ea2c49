"""`distseg export RUN --student`: one small model, its honest score and what it costs."""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import distseg
from distseg import cli
from distseg.config.load import load_config
from distseg.data.prepare import open_cache, prepare
from distseg.inference.predict import open_ensemble
from distseg.records.errors import UserError
from distseg.records.files import read_json, write_json
from distseg.records.manifest import Manifest
from distseg.records.paths import Run, final_ensemble
from distseg.records.predictions import Predictions
from distseg.run import pipeline
from distseg.run.student import student_config
from tests.made_run import made_config, write_data, write_member
from tests.run.in_process import (
    InProcess,
    all_weights,
    config_of,
    differing,
    files_of,
    small_tree,
    start,
)

Pair = tuple[Path, Path, str, dict[str, bytes]]


@contextlib.contextmanager
def in_process(folder: Path, jobs: list[InProcess]) -> Iterator[None]:
    """Jobs of the run in `folder` are function calls; who did them is appended to `jobs`."""

    @contextlib.contextmanager
    def opened(_config: Any, run: Run) -> Iterator[Any]:
        assert run.folder == folder
        jobs.append(InProcess(run))
        yield jobs[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "open_executor", opened)
        yield


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A run of two models and two folds, its student, what the command printed, and the run's files
    before it. The smaller model has no image head, which the gate of the ensemble asks."""
    folder = tmp_path_factory.mktemp("student")
    source, student = folder / "run", folder / "run-student"
    rules = {"threshold": "search", "gate": "search"}
    tree = small_tree(ensemble={"simpler": "never"}, postprocess=rules)
    larger = {"decoder": {"filters": 6, "depth": 2}, "image_head": 0.1}
    tree["members"]["b"] = {**tree["members"]["a"], **larger}
    with pytest.MonkeyPatch.context() as patch:
        assert start(config_of(tree), Run(source), patch)[0] == 0
    before = files_of(source)
    with in_process(student, []), contextlib.redirect_stdout(io.StringIO()) as lines:
        command = ["export", str(source), "--student", "train.batch_size=4"]
        assert cli.main(command) == 0
    return source, student, lines.getvalue(), before


def test_the_run_is_not_written(pair: Pair) -> None:
    source, student, _, before = pair
    assert files_of(source) == before
    linked = [p for p in student.rglob("*") if p.is_file() and p.stat().st_nlink > 1]
    assert {p.suffix for p in linked} == {".safetensors", ".f16", ".u8"}
    for path in linked:
        assert path.samefile(source / path.relative_to(student))


def test_its_config(pair: Pair) -> None:
    _, student, _, _ = pair
    config = load_config(Run(student).config)
    small = config.members["student"]
    assert small.decoder == {"filters": 4, "depth": 2}  # of the smaller model
    assert [stage.keep for stage in small.stages or []] == ["last"]
    assert config.train.batch_size == 4
    assert [entry.kind for entry in config.rounds] == ["supervised", "distill"]
    assert config.rounds[0].members == ["a", "b"] and config.rounds[1].teacher == "fold"


def test_the_table_says_what_is_kept_and_what_it_costs(
    pair: Pair,
) -> None:
    source, student, printed, _ = pair
    facts = read_json(student / "model" / "export.json")["facts"]
    told = facts["student"]
    scores = [final_ensemble(Run(one))["scores"]["final"]["score"] for one in (source, student)]
    assert [told["score"]["before"], told["score"]["now"]] == pytest.approx(scores)
    assert told["share"] == pytest.approx(scores[1] / scores[0])
    assert told["score"]["difference"] == pytest.approx(scores[1] - scores[0])
    assert told["score"]["standard_error"] > 0 and told["score"]["common"] == 24
    assert facts["flag"] == "honest" == final_ensemble(Run(student))["flag"]
    assert (told["ensemble"]["networks"], told["student"]["networks"]) == (8, 1)
    weights = list((student / "model").rglob("*.safetensors"))
    assert told["student"]["bytes"] == sum(p.stat().st_size for p in weights) and len(weights) == 1
    everyone = {
        snapshot: (source / snapshot).stat().st_size
        for member in final_ensemble(Run(source))["members"]
        for snapshot in member["snapshots"]
    }
    assert told["ensemble"]["bytes"] == sum(everyone.values())
    assert 0 < told["student"]["ms_per_image"] < told["ensemble"]["ms_per_image"]
    assert told["student"]["parameters"] < told["ensemble"]["parameters"]
    card = (student / "model" / "README.md").read_text()
    for line in told["lines"]:
        assert all(cell in printed and cell in card for cell in line)
    assert told["sentence"] in printed and told["sentence"] in card
    assert "one network, the student of the ensemble" in card


def test_no_label_of_its_fold_reaches_it(
    pair: Pair,
) -> None:
    _, student, _, _ = pair
    run = Run(student)
    for fold in (0, 1):
        rows = Manifest.read(run.train_set(1, fold))
        assert all(fold not in row.teacher_folds for row in rows)
        assert {bool(row.soft) for row in rows if row.fold == 1 - fold} == {True}
        assert read_json(run.member(1, "student", fold).done)["trained_on"] == [1 - fold]


def test_the_model_is_the_student_of_the_first_fold(pair: Pair, tmp_path: Path) -> None:
    """Moved elsewhere, it gives the out-of-fold logits of that fold, and the run's masks."""
    _, student, _, _ = pair
    moved = tmp_path / "model"
    shutil.copytree(student / "model", moved)
    run, config, record = open_ensemble(student)
    truth, cache = Manifest.read(run.truth), open_cache(config, run)
    rows = [truth[number] for number in truth.val_rows(0)]
    kept = Predictions(run.member(1, "student", 0).oof)
    model = distseg.load_ensemble(moved)
    assert model.record["rule"] == record["rule"]
    images = {row.id: cache.image(row.id) for row in rows}
    for one in model.predict(images):
        probabilities = 1 / (1 + np.exp(-kept.of(one.id).astype(np.float32)))
        assert np.abs(one.probabilities - probabilities).max() < 2e-3  # kept as float16
    alone = config.members["student"]
    assert list(load_config(moved / "config.yaml").members) == ["student"]
    written = load_config(moved / "config.yaml")
    assert written.members["student"].decoder == alone.decoder and alone.image_head is None
    assert (config.postprocess.gate, written.postprocess.gate) == ("search", "none")


def test_again_it_trains_nothing(pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    source, student, _, _ = pair
    before = (student / "model" / "README.md").stat().st_mtime_ns
    jobs: list[InProcess] = []
    with in_process(student, jobs):
        command = ["export", str(source), "--student", "train.batch_size=4"]
        assert cli.main(command) == 0
    assert not jobs[0].jobs and (student / "model" / "README.md").stat().st_mtime_ns == before
    assert "student / ensemble" in capsys.readouterr().out


def test_what_a_kill_has_left_goes_on(pair: Pair, tmp_path: Path) -> None:
    """Without one student, ensemble and model: only that student is trained, bit for bit."""
    source, student, _, _ = pair
    whole, new = Run(student), Run(tmp_path / "new")
    shutil.copytree(student, new.folder)
    shutil.rmtree(new.member(1, "student", 1).folder)
    shutil.rmtree(new.ensemble(1).parent)
    shutil.rmtree(new.model)
    jobs: list[InProcess] = []
    with in_process(new.folder, jobs):
        record = distseg.export_student(source, ["train.batch_size=4"], out=new.folder)
    assert jobs[0].trained == ["student:1"]
    before, after = all_weights(whole), all_weights(new)
    assert before.keys() == after.keys() and differing(before, after) == []
    told = read_json(whole.model / "export.json")["facts"]["student"]
    assert record["facts"]["student"]["score"] == told["score"] and new.model.is_dir()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--student", "resnt18", "--out", "{new}"],
            "members.student.encoder: unknown encoder 'resnt18'",
        ),
        (["--student", "--out", "{run}"], "something is there already"),
        (["--student", "--format", "onnx"], "--format: not with --student"),
        (["--student", "--members", "a:0"], "--members: not with --student"),
        (["--student", "members.student.sed=1", "--out", "{new}"], "members.student.sed"),
        (["--student", "train.batch_size=8"], "train.batch_size: 4 -> 8"),
        (["train.batch_size=8", "--out", "{new}"], "are for --student"),
        ([], "needs --out DIR"),
    ],
)
def test_mistakes_are_one_line(
    pair: Pair, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str,
) -> None:  # fmt: skip
    source = pair[0]
    new = tmp_path / "new"
    filled = [one.format(run=source, new=new) for one in arguments]
    assert cli.main(["export", str(source), *filled]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not new.exists() and files_of(source) == pair[3]


def test_what_is_no_teacher(pair: Pair, tmp_path: Path) -> None:
    source, student, _, _ = pair
    with pytest.raises(UserError, match="an ensemble that was exported"):
        distseg.export_student(student / "model", out=tmp_path / "new")
    with pytest.raises(UserError, match="no run here"):
        distseg.export_student(tmp_path, out=tmp_path / "new")
    shutil.copytree(source, tmp_path / "run")
    record = final_ensemble(Run(source))
    write_json(Run(tmp_path / "run").final, {**record, "members": record["members"][:1]})
    with pytest.raises(UserError, match="another ensemble"):
        distseg.export_student(tmp_path / "run", ["train.batch_size=4"], out=student)


def test_the_config_of_other_runs(pair: Pair, tmp_path: Path) -> None:
    """A model that has lost a fold teaches the others; weights that were chosen by the score make
    the student's score indirect; an encoder of one's own is a Unet."""
    source = pair[0]
    run, config, ensemble = open_ensemble(source)
    tree = config.model_dump(mode="json")
    tree["stages"][0]["keep"] = "best"
    chosen = student_config(run, config_of(tree), ensemble)
    assert chosen.rounds[-1].teacher == "oof" and chosen.flag(1) == "indirect"
    assert config_of(yaml.safe_load(yaml.safe_dump(chosen.model_dump(mode="json")))) == chosen
    other = student_config(run, config, ensemble, "resnet18").members["student"]
    assert (other.arch, other.encoder, other.encoder_weights) == ("Unet", "resnet18", None)
    done = run.member(0, "b", 1).done
    record = done.read_bytes()
    try:
        done.unlink()
        part = student_config(run, config, ensemble)
        assert part.members["b"].folds == [0] and part.postprocess.gate == "search"
        run.member(0, "b", 0).done.rename(tmp_path / "DONE")  # no model with a head is left
        part = student_config(run, config, ensemble)
        assert list(part.members) == ["a", "student"] and part.postprocess.gate == "none"
        assert config_of(part.model_dump(mode="json")) == part
    finally:
        done.write_bytes(record)
        if (tmp_path / "DONE").is_file():
            (tmp_path / "DONE").rename(run.member(0, "b", 0).done)
    again = student_config(Run(pair[1]), *open_ensemble(pair[1])[1:])  # a student's student
    assert again.rounds[-1].members == ["student2"] and len(again.rounds) == 3


@pytest.mark.parametrize("folds", [{"kind": "holdout"}, {"kind": "stratified", "use": [0]}])
def test_a_run_of_one_fold_whose_labels_chose_its_weights_has_no_student(
    tmp_path: Path, folds: dict[str, Any]
) -> None:
    """No models of another fold could judge; an honest choice of the weights can be taught."""
    write_data(tmp_path / "data")
    data = {"format": "folder", "root": str(tmp_path / "data"), "folds": folds}
    chosen: dict[str, Any] = {"data": data, "stages": [{"keep": "best"}]}
    config = made_config(tmp_path / "data", **chosen)
    run = Run(tmp_path / "run")
    prepare(config, run)
    for name in config.members:
        write_member(config, run, name, 0)
    with pytest.raises(UserError, match=r"keep: best has chosen weights by .* fold 0") as error:
        student_config(run, config, {"round": 0})
    assert "train.inner_share: .1" in str(error.value) and "\n" not in str(error.value)
    honest = made_config(tmp_path / "data", **{**chosen, "train": {"inner_share": 0.1}})
    made = student_config(run, honest, {"round": 0})
    assert made.rounds[-1].teacher == "fold" and made.flag(1) == "honest"
    assert config_of(made.model_dump(mode="json")) == made
