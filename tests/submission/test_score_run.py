"""Scores by a run's config: what the masks mean is the run's to say, and is never guessed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import distseg
from distseg.cli import main
from distseg.config.load import dump_config
from distseg.config.schema import Config
from distseg.data.mask_values import MARK, MaskValues
from distseg.functional import rle
from distseg.functional.metrics import count_masks, summarize
from distseg.inference.mask_files import mask_files
from distseg.records.errors import UserError
from tests.data.data_helpers import config as folder_config
from tests.data.data_helpers import gray, save
from tests.data.made_data import CE, SIZE, classes, shape

NUM = 6
MULTI: dict[str, Any] = {
    "task": "multiclass", "classes": ["ground", "a", "b"], "stages": CE, "metric": "miou",
}  # fmt: skip
LABELS: dict[str, Any] = {"task": "multilabel", "classes": ["one", "two"]}
INVERTED: dict[str, Any] = {"data__folder": {"inverted": True}}


def run_of(tmp_path: Path, **settings: Any) -> tuple[Path, Config]:
    """A run folder of which only the config is there: nothing else is needed."""
    settings = {"metric": "dice", **settings}
    config = folder_config(tmp_path / "nowhere", **settings)
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(dump_config(config))
    return run, config


def truth_and_guess(task: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Labels (K, H, W) by id, and predictions that are right in part."""
    truth, guess = {}, {}
    for i in range(NUM):
        own = {
            "binary": shape(i + 1)[None],
            "multiclass": classes(i)[None],
            "multilabel": np.stack([shape(i + 1), shape(i)]),
        }[task]
        truth[f"a{i}"], guess[f"a{i}"] = own, np.roll(own, (1 + i % 3, 1), axis=(1, 2))
    return truth, guess


def expected(config: Config, truth: dict[str, np.ndarray], guess: dict[str, np.ndarray]) -> float:
    counts = [
        count_masks(guess[name], truth[name], config.num_outputs, config.task) for name in truth
    ]
    return float(summarize(np.stack(counts), config.metric)["score"])


def write(
    folder: Path, masks: dict[str, np.ndarray], values: MaskValues, names: Any = ("",)
) -> Path:
    for name, planes in masks.items():
        for number, (label, plane) in enumerate(zip(names, planes, strict=True)):
            save(folder / label / f"{name}.png", values.pixels(plane, number))
    return folder


RED, GREEN, BLACK = (255, 0, 0), (0, 128, 0), (0, 0, 0)
# By name: settings, the values of the data's own masks, and those of the usual ones.
LANGUAGES: dict[str, tuple[dict[str, Any], tuple[Any, ...]]] = {
    "plain": ({}, (0, 255)),
    "0 and 1": ({}, (0, 1)),
    "inverted": (INVERTED, (255, 0)),
    "threshold": ({"data__folder": {"threshold": 127}}, (100, 200)),
    "mask_values": ({"data__mask_values": {7: 0, 9: 1}}, (7, 9)),
    "colors": ({"data__colors": {"object": RED, "background": BLACK}}, (BLACK, RED)),
    "class numbers": (MULTI, (0, 1, 2)),
    "values of classes": ({**MULTI, "data__mask_values": {50: 0, 100: 1, 150: 2}}, (50, 100, 150)),
    "colors of classes": (
        {**MULTI, "data__colors": {"ground": BLACK, "a": RED, "b": GREEN}}, (BLACK, RED, GREEN),
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", ["predicted", "data", "usual"])
@pytest.mark.parametrize("name", LANGUAGES)
def test_the_truth_is_read_as_the_data(tmp_path: Path, name: str, how: str) -> None:
    """Whether the submission came from `distseg predict`, is in the data's own values, or in usual
    ones and says so."""
    settings, values = LANGUAGES[name]
    run, config = run_of(tmp_path, **settings)
    truth, guess = truth_and_guess(config.task)
    own = MaskValues((values,))
    write(tmp_path / "truth", truth, own)
    usual = "index" if config.task == "multiclass" else "255"
    said: dict[str, Any] = {}
    if how == "predicted":
        with mask_files(config, tmp_path, tmp_path / "guess", None, own) as sink:
            for key, planes in guess.items():
                sink.add(key, planes)
        (tmp_path / "guess" / MARK).write_text(json.dumps({"planes": own.record()}))
    elif how == "data":
        write(tmp_path / "guess", guess, own)
        said = {"values": "data"}
    else:
        numbers = (0, 1, 2) if usual == "index" else (0, 255)
        write(tmp_path / "guess", guess, MaskValues((numbers,)))
        said = {"values": usual}
    record = distseg.score_submission(tmp_path / "guess", tmp_path / "truth", run=run, **said)
    assert record["score"] == pytest.approx(expected(config, truth, guess))
    assert 0.1 < record["score"] < 0.9 and record["metric"] == config.metric


@pytest.mark.parametrize("called", ["p{}/a{}", "p{}_a{}", "a{1}"])
def test_the_truth_of_images_in_subfolders(tmp_path: Path, called: str) -> None:
    """The submission keeps the folders, as `predict` does, or has the ids of the run."""
    folders = {"images": "train/**/images", "masks": "train/**/masks", "mask": "{id}_gt"}
    run, config = run_of(tmp_path, data__folder=folders)
    truth, guess = truth_and_guess("binary")
    places = {f"a{i}": f"p{i % 2}/masks/a{i}_gt" for i in range(NUM)}
    values = MaskValues(((0, 255),))
    names = {f"a{i}": called.format(i % 2, i) for i in range(NUM)}
    for folder, masks, own in (("truth", truth, places), ("guess", guess, names)):
        for name in masks:
            (tmp_path / folder / own[name]).parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path / folder, {own[name]: mask for name, mask in masks.items()}, values)
    record = distseg.score_submission(
        tmp_path / "guess", tmp_path / "truth", run=run, values="data"
    )
    assert record["score"] == pytest.approx(expected(config, truth, guess))


def test_what_could_be_read_in_two_ways_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Masks of 0 and 255 of an inverted set, and nothing says which is the object."""
    run, _ = run_of(tmp_path, **INVERTED)
    truth, guess = truth_and_guess("binary")
    write(tmp_path / "truth", truth, MaskValues(((255, 0),)))
    write(tmp_path / "guess", guess, MaskValues(((0, 255),)))
    command = ["score", str(tmp_path / "guess"), str(tmp_path / "truth"), "--run", str(run)]
    assert main(command) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1 and "say --values data or --values 255" in errors[0]
    assert main([*command, "--values", "255"]) == 0
    right = json.loads(capsys.readouterr().out)["score"]
    assert main([*command, "--values", "data"]) == 0
    assert json.loads(capsys.readouterr().out)["score"] != right


def test_masks_that_lie_in_the_run_are_its_own(tmp_path: Path) -> None:
    run, config = run_of(tmp_path, **INVERTED)
    truth, guess = truth_and_guess("binary")
    write(tmp_path / "truth", truth, MaskValues(((255, 0),)))
    write(run / "test_masks", guess, MaskValues(((0, 255),)))
    record = distseg.score_submission(run / "test_masks", tmp_path / "truth", run=run)
    assert record["score"] == pytest.approx(expected(config, truth, guess))


def test_void_of_the_truth_counts_nowhere(tmp_path: Path) -> None:
    run, config = run_of(tmp_path, void=9, **MULTI)
    truth, guess = truth_and_guess("multiclass")
    for planes in truth.values():
        planes[0, :3] = 255
    write(tmp_path / "guess", guess, MaskValues(((0, 1, 2),)))
    own = {name: np.where(planes == 255, 9, planes) for name, planes in truth.items()}
    for name, planes in own.items():
        save(tmp_path / "truth" / f"{name}.png", planes[0].astype(np.uint8))
    record = distseg.score_submission(tmp_path / "guess", tmp_path / "truth", run=run)
    assert record["score"] == pytest.approx(expected(config, truth, guess))
    save(tmp_path / "guess" / "a0.png", np.full((SIZE, SIZE), 9, np.uint8))
    with pytest.raises(UserError, match="'a0' holds void pixels where the truth has a label"):
        distseg.score_submission(tmp_path / "guess", tmp_path / "truth", run=run)


def test_a_folder_for_each_class(tmp_path: Path) -> None:
    run, config = run_of(tmp_path, **LABELS)
    truth, guess = truth_and_guess("multilabel")
    values = MaskValues(((0, 1), (0, 255)))
    write(tmp_path / "truth", truth, values, config.classes)
    write(tmp_path / "guess", guess, values, config.classes)
    (tmp_path / "guess" / MARK).write_text(json.dumps({"planes": values.record()}))
    record = distseg.score_submission(tmp_path / "guess", tmp_path / "truth", run=run)
    assert record["score"] == pytest.approx(expected(config, truth, guess))
    assert len(record["per_class"]) == 2


def test_a_folder_for_the_only_class(tmp_path: Path) -> None:
    """Its masks hold 0 and 255, and no numbers of classes."""
    run, config = run_of(tmp_path, task="multilabel", classes=["one"])
    truth, guess = truth_and_guess("binary")
    for place, masks in (("truth", truth), ("guess", guess)):
        write(tmp_path / place, masks, MaskValues(((0, 255),)), config.classes)
    record = distseg.score_submission(tmp_path / "guess", tmp_path / "truth", run=run)
    assert record["score"] == pytest.approx(expected(config, truth, guess))


def table(path: Path, masks: dict[str, np.ndarray], names: list[str], **options: Any) -> Path:
    header = "id,class,rle" if names else "id,rle"
    lines = [header]
    for name, planes in masks.items():
        for label, plane in zip(names or [""], planes, strict=True):
            key = f"{name},{label}" if label else name
            lines.append(f"{key},{rle.encode(plane, **options)}")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_tables_count_as_the_runs_do(tmp_path: Path) -> None:
    """Along the rows, from 0; an empty mask as -1. The sizes are those of the truth's files, or are
    given."""
    options = {"order": "row", "base": 0, "empty": "-1"}
    layout = {"rle_order": "row", "rle_base": 0, "rle_empty": "-1", "submission": "rle"}
    run, config = run_of(tmp_path, data__folder={**layout, "inverted": True})
    truth, guess = truth_and_guess("binary")
    write(tmp_path / "truth", truth, MaskValues(((255, 0),)))
    guessed = table(tmp_path / "guess.csv", guess, [], **options)
    right = expected(config, truth, guess)
    record = distseg.score_submission(guessed, tmp_path / "truth", run=run)
    assert record["score"] == pytest.approx(right)
    known = table(tmp_path / "truth.csv", truth, [], **options)
    with pytest.raises(UserError, match="give --images DIR, or --height and --width"):
        distseg.score_submission(guessed, known, run=run)
    record = distseg.score_submission(guessed, known, run=run, height=SIZE, width=SIZE)
    assert record["score"] == pytest.approx(right)


def test_classes_of_a_table(tmp_path: Path) -> None:
    run, config = run_of(tmp_path, **LABELS)
    truth, guess = truth_and_guess("multilabel")
    guessed = table(tmp_path / "guess.csv", guess, ["one", "two"])
    known = write(tmp_path / "truth", truth, MaskValues(((0, 255),) * 2), config.classes)
    record = distseg.score_submission(guessed, known, run=run)
    assert record["score"] == pytest.approx(expected(config, truth, guess))
    table(guessed, guess, ["1", "2"])
    with pytest.raises(UserError, match="unknown class '1'"):
        distseg.score_submission(guessed, known, run=run)


def test_names_of_masks_are_the_runs(tmp_path: Path) -> None:
    names = {"test_image": "{id}_test.tif", "mask": "{id}_manual1.gif"}
    run, config = run_of(tmp_path, data__folder=names)
    truth, guess = truth_and_guess("binary")
    usual = MaskValues(((0, 255),))
    write(tmp_path / "truth", {f"{name}_manual1": one for name, one in truth.items()}, usual)
    write(tmp_path / "guess", {f"{name}_test": one for name, one in guess.items()}, usual)
    record = distseg.score_submission(tmp_path / "guess", tmp_path / "truth", run=run)
    assert record["score"] == pytest.approx(expected(config, truth, guess))


def test_sub_folders_are_part_of_the_id(tmp_path: Path) -> None:
    run, _ = run_of(tmp_path)
    truth, guess = truth_and_guess("binary")
    usual = MaskValues(((0, 255),))
    for folder, masks in (("truth", truth), ("guess", guess)):
        write(tmp_path / folder, {f"x/{n}": m for n, m in masks.items()}, usual)
        write(tmp_path / folder, {f"y/z/{n}": 1 - m for n, m in masks.items()}, usual)
    record = distseg.score_submission(tmp_path / "guess", tmp_path / "truth", run=run)
    assert record["num_images"] == 2 * NUM


WRONG: dict[str, tuple[Callable[[Path], object], dict[str, Any], str]] = {
    "a mask is missing": (lambda p: (p / "guess/a3.png").unlink(), {}, "guess: has no 'a3', which"),
    "a mask is too many": (
        lambda p: save(p / "guess/b.png", shape(1)), {}, "truth: has no 'b', which",
    ),
    "1 and 2 in the truth": (
        lambda p: [save(f, np.asarray(Image.open(f)) // 255 + 1) for f in (p / "truth").iterdir()],
        {}, "no mask of object holds the value 0",
    ),
    "1 and 2 in the submission": (
        lambda p: [save(f, np.asarray(Image.open(f)) // 255 + 1) for f in (p / "guess").iterdir()],
        {}, "no mask of object holds the value 0",
    ),
    "noise in the submission": (
        lambda p: save(p / "guess/a0.png", gray(1)),
        {}, "a binary mask has two values",
    ),
    "another size": (
        lambda p: save(p / "guess/a0.png", shape(1)[:-1]), {}, "the mask is 15x16",
    ),
    "an unknown metric": (lambda p: None, {"metric": "dise"}, "Did you mean 'dice'"),
    "unknown values": (lambda p: None, {"values": "254"}, "unknown value of --values '254'"),
    "no folder": (lambda p: None, {"run": "nowhere"}, "no run here"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_refused_with_the_reason(tmp_path: Path, name: str) -> None:
    change, options, says = WRONG[name]
    run, _ = run_of(tmp_path)
    for folder, masks in zip(("truth", "guess"), truth_and_guess("binary"), strict=True):
        write(tmp_path / folder, masks, MaskValues(((0, 255),)))
    change(tmp_path)
    given = {"run": run, **options}
    given["run"] = tmp_path / given["run"]
    with pytest.raises(UserError, match=says):
        distseg.score_submission(tmp_path / "guess", tmp_path / "truth", **given)


def test_keys_that_the_run_says_are_refused_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = ["score", str(tmp_path), str(tmp_path)]
    for extra, says in (
        (["--run", "r", "--void", "3"], "--void: --run says it already"),
        (["--run", "r", "--num-classes", "3"], "--num-classes: --run says it already"),
        (["--metric", "dice", "--values", "255"], "--values: needs --run"),
        ([], "needs --metric NAME, or --run RUN"),
    ):
        assert main([*pair, *extra]) == 2
        assert says in capsys.readouterr().err
