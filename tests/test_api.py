"""The Python API: from any folder, the same numbers as the command line's and as the report's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import distseg
from distseg import cli
from distseg.config.load import load_config, parse_config
from distseg.ensemble.fit import fit_ensemble
from distseg.inference.ensemble import _rows as rows_to_predict
from distseg.records.errors import UserError
from distseg.records.manifest import Manifest
from distseg.records.paths import Run
from distseg.rounds.choose import choose_final
from tests.made_run import made_config, made_run, write_data, write_two_classes
from tests.tiny import ROOT, tiny_tree

SCRIPT = """
import sys
from pathlib import Path
import distseg
assert not {"torch", "numpy", "pydantic"} & set(sys.modules), "import distseg is light"
run = distseg.load_run(sys.argv[1])
oof = run.oof()
assert len(oof.logits[0].shape) == 3 and "torch" not in sys.modules, "tables need no torch"
import numpy as np
from PIL import Image

scores = []
for logits, rule, truth in zip(oof.logits, oof.rules, oof.truth, strict=True):
    mask = logits > rule["threshold"][0]
    mask &= mask.sum() >= rule["min_area"][0]
    both = mask.sum() + (truth == 1).sum()
    scores.append(2 * (mask & (truth == 1)).sum() / both if both else 1.0)
assert abs(np.mean(scores) - run.score) < 1e-12 and np.allclose(scores, oof.scores, atol=1e-6)

arrays = {p.stem: np.asarray(Image.open(p)) for p in sorted(Path("in").iterdir())}
for one in distseg.load_ensemble(sys.argv[1]).predict(arrays):
    Image.fromarray(one.mask * np.uint8(255)).save(f"api_{one.id}.png")
    assert one.areas == {"object": int(one.mask.sum())} and one.error == ""
print(f"{run.score:.4f}")
"""


def images_of(run: Path, folder: Path, count: int = 5) -> list[Path]:
    """The first test images of a run, and one of another size, as files in `folder`."""
    folder.mkdir()
    for sample in list(Manifest.read(Run(run).data / "test.csv"))[:count]:
        Image.open(sample.image).save(folder / f"{sample.id}.png")
    Image.open(sample.image).resize((50, 41)).save(folder / "wide.png")
    return sorted(folder.iterdir())


@pytest.mark.slow  # tests/test_wheel.py runs one with the wheel
def test_a_script_in_an_empty_folder(trained: Path, tmp_path: Path) -> None:
    """Arrays in, the masks of `distseg predict` out; the score again from numpy alone."""
    files = images_of(trained, tmp_path / "in")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for command in (
        ["-m", "distseg", "predict", str(trained), "--images", "in", "--out", "out"],
        ["-c", SCRIPT, str(trained)],
    ):
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{distseg.load_run(trained).score:.4f}"
    assert len(files) == 6
    for file in files:
        written, own = (tmp_path / name for name in (f"out/{file.name}", f"api_{file.name}"))
        assert np.array_equal(np.asarray(Image.open(written)), np.asarray(Image.open(own))), file


def test_arrays_paths_and_folders_give_the_same(trained: Path, tmp_path: Path) -> None:
    files = images_of(trained, tmp_path / "in")
    ensemble = distseg.load_ensemble(trained)
    first = ensemble.predict(tmp_path / "in")
    assert [one.id for one in first] == [file.stem for file in files]
    arrays = [np.asarray(Image.open(file)) for file in files]
    pictures = [Image.open(file) for file in files]
    for images in (files, [str(file) for file in files], arrays, pictures, iter(arrays)):
        again = ensemble.predict(images)
        for one, other in zip(first, again, strict=True):
            assert np.array_equal(one.mask, other.mask)
            assert np.array_equal(one.probabilities, other.probabilities)
            assert one.areas == other.areas
    assert {one.id for one in ensemble.stream(files)} == {one.id for one in first}
    assert first[0].probabilities.shape == (1, 32, 32) and first[-1].mask.shape == (41, 50)
    assert first[0].probabilities.min() >= 0 and first[0].probabilities.max() <= 1
    (alone,) = ensemble.predict(arrays[0])
    (of_file,) = ensemble.predict(files[0])
    assert np.array_equal(alone.mask, of_file.mask) and of_file.id == files[0].stem
    assert len(ensemble.predict(np.stack(arrays[:3])[..., None])) == 3


@pytest.mark.slow
def test_ensembles_of_several_precisions_in_one_process(trained: Path, tmp_path: Path) -> None:
    """A notebook loads what it likes; each gives what `distseg predict` gives for it."""
    (tmp_path / "in").mkdir()
    picture = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "in" / "a.png")
    found = {}
    for precision in ("fp32", "bf16"):
        run = tmp_path / precision
        distseg.export_run(trained, run)
        text = (run / "config.yaml").read_text()
        assert "precision: fp32" in text
        (run / "config.yaml").write_text(text.replace("precision: fp32", f"precision: {precision}"))
        (found[precision],) = distseg.load_ensemble(run).predict(picture)
        command = ["predict", str(run), "--images", str(tmp_path / "in"), "--out", f"{run}_out"]
        done = subprocess.run(
            [sys.executable, "-m", "distseg", *command], cwd=ROOT, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        written = np.asarray(Image.open(f"{run}_out/a.png"))
        assert np.array_equal(written > 0, found[precision].mask > 0)
    fp32, bf16 = (found[key].probabilities for key in ("fp32", "bf16"))
    assert 0 < np.abs(fp32 - bf16).max() < 0.05, "they are two precisions"


def test_what_is_no_image_is_said(trained: Path, tmp_path: Path) -> None:
    ensemble = distseg.load_ensemble(trained)
    (tmp_path / "b.png").write_bytes(b"no image")
    good = np.zeros((9, 8), np.uint8)
    five = np.zeros((4, 4, 5), np.uint8)
    found = ensemble.predict({"good": good, "bad": tmp_path / "b.png", "five": five})
    assert [bool(one.error) for one in found] == [False, True, True]
    assert not found[1].mask.any() and found[1].areas == {"object": 0}
    assert "5 channels; input.channels is 1" in found[2].error
    assert ensemble.predict([]) == []
    with pytest.raises(UserError, match="int is no image"):
        ensemble.predict([1])  # type: ignore[list-item]
    with pytest.raises(UserError, match="no such folder"):
        ensemble.predict(tmp_path / "absent")


def test_files_are_as_large_as_the_run_s_config_allows(tmp_path: Path) -> None:
    """An image over 100 megapixels has its own canvas, not that of images of unknown size, whoever
    names it; one over the config's own limit has none."""
    path = tmp_path / "large.png"
    Image.new("1", (12_000, 9_000)).save(path)
    for limit, size in ((200_000_000, (9_000, 12_000)), (50_000_000, (0, 0))):
        tree = tiny_tree()
        config = parse_config({**tree, "data": {**tree["data"], "max_pixels": limit}}, "test")
        for images in ([path], {"a": path}, [str(path)], path, tmp_path):
            (row,) = rows_to_predict(images, config)
            assert (row.height, row.width) == size, (limit, images)


def test_a_run_in_python(trained: Path) -> None:
    run = distseg.load_run(trained)
    assert run.config == load_config(trained / "config.yaml") and run.config.name == "trained"
    assert run.flag == "honest" and run.standard_error > 0 and run.report["score"] == run.score
    assert f"dice {run.score:.4f}" in repr(run)
    assert [(m.round, m.name, m.fold) for m in run.members] == [
        (0, "a", 0), (0, "a", 1), (0, "plain", 0), (0, "plain", 1),
    ]  # fmt: skip
    for member in run.members:
        assert len(member.snapshots) == 2 and all(file.is_file() for file in member.snapshots)
        own = [m for m in run.ensemble["members"] if m["fold"] == member.fold]
        own = [m for m in own if m["name"].partition("#")[0] == member.name]
        assert member.weight == sum(m["weight"] for m in own)
        assert [row["epoch"] for row in member.metrics] == [0, 1]


def test_oof_as_a_frame(trained: Path) -> None:
    pandas = pytest.importorskip("pandas")
    oof = distseg.load_run(trained).oof()
    frame = oof.frame()
    assert isinstance(frame, pandas.DataFrame) and len(frame) == len(oof) == 37
    assert list(frame.id) == oof.ids and list(frame.fold) == oof.folds
    assert frame.score.mean() == pytest.approx(distseg.load_run(trained).score, abs=1e-6)
    sums = [
        int((mask & (truth == 1)).sum()) for mask, truth in zip(oof.masks, oof.truth, strict=True)
    ]
    assert list(frame.inter_object) == sums
    assert len(oof.masks[:3]) == 3 and oof.masks[-1].shape == (1, 32, 32)
    with pytest.raises(IndexError):
        oof.masks[37]


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
@pytest.mark.parametrize("space", ["logit", "prob"])
def test_oof_gives_the_score_of_other_tasks(tmp_path: Path, task: str, space: str) -> None:
    changes: dict[str, Any] = {"ensemble": {"space": space}, "task": task}
    if task == "multiclass":
        write_data(tmp_path / "data", num_labels=3)
        changes |= {"classes": ["ground", "x", "y"], "metric": "miou"}
        changes |= {"stages": [{"loss": {"cross_entropy": 1.0}}]}
    else:
        write_two_classes(tmp_path / "data")
        changes |= {"classes": ["x", "y"], "postprocess": {"threshold": "search"}}
    config = made_config(tmp_path / "data", **changes)
    run = made_run(tmp_path, config)
    (run.folder / "config.yaml").write_text(_dump(config))
    fit_ensemble(config, run, 0)
    choose_final(run, 0)
    found = distseg.load_run(run.folder)
    oof = found.oof()
    number = len(config.classes)
    counts = []
    for logits, probs, rule, truth in zip(
        oof.logits, oof.probabilities, oof.rules, oof.truth, strict=True
    ):
        if task == "multiclass":
            mask, target = (probs.argmax(0) == np.arange(number)[:, None, None]), truth[0]
            assert np.allclose(probs.sum(0), 1, atol=1e-4)
            planes = target == np.arange(number)[:, None, None]
        else:
            mask, planes = logits > np.array(rule["threshold"])[:, None, None], truth == 1
        counts.append([((mask & planes).sum((1, 2))), mask.sum((1, 2)), planes.sum((1, 2))])
    table = np.moveaxis(np.array(counts), 1, -1)
    assert distseg.metrics.summarize(table, config.metric)["score"] == pytest.approx(found.score)


def _dump(config: Any) -> str:
    from distseg.config.load import dump_config

    return dump_config(config)


def test_mistakes_are_the_command_lines(tmp_path: Path) -> None:
    tree = tiny_tree(metric="dise", task="binarry")
    with pytest.raises(distseg.UserError) as error:
        distseg.run(tree, out=tmp_path / "run")
    assert "Did you mean 'dice'" in str(error.value) and "Did you mean 'binary'" in str(error.value)
    with pytest.raises(UserError, match="no run here"):
        distseg.load_run(tmp_path)
    with pytest.raises(UserError, match="no run here"):
        distseg.load_ensemble(tmp_path)
    assert cli.main(["predict", str(tmp_path), "--images", "x", "--out", "y"]) == 2


def test_a_run_that_is_not_whole_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every job fails at once: their interpreter is `false`."""
    tree = tiny_tree()
    tree["compute"]["retries"] = 0
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(distseg.RunFailed, match="not whole"):
        distseg.run(tree, out=tmp_path / "run")


def test_its_names() -> None:
    assert set(dir(distseg)) == set(vars(distseg)["__all__"])
    assert distseg.rle.encode(np.eye(2)) == "1 1 4 1"
    assert distseg.metrics.dice(1, 2, 2) == 0.5 and "bce" in distseg.losses.LOSSES
    assert callable(distseg.run) and callable(distseg.load_run)
    with pytest.raises(AttributeError, match="'load_rum'"):
        getattr(distseg, "load_" + "rum")
