from __future__ import annotations

import shutil
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distseg.config.schema import Config
from distseg.data.formats import synthetic as made
from distseg.data.inspect import inspect, report
from distseg.data.layouts import layout
from distseg.data.read_target import read_target
from distseg.records.errors import UserError
from tests.data.data_helpers import blob, config, folder, gray, save, tgs

LABELS = {"task": "multilabel", "classes": ["a", "b"]}


def test_an_unknown_format_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"data\.format: unknown format 'fodler'.*'folder'"):
        layout("fodler")


def test_tgs_from_masks_and_from_the_table(tmp_path: Path) -> None:
    c = config(tgs(tmp_path), data__format="tgs")
    rows = layout("tgs").train(c)
    assert [row.id for row in rows] == [f"a{i}" for i in range(6)]
    assert all(row.target.startswith("file:") for row in rows)
    for i, row in enumerate(rows):  # 8-bit and 16-bit masks alike
        assert np.array_equal(read_target(row.target, c, 16, 16)[0], blob(i) // 255)
    shutil.rmtree(tmp_path / "train/masks")
    rows = layout("tgs").train(c)
    assert [row.target for row in rows[:3]] == ["rle:", "rle:1 3", "rle:1 3"]
    assert len(inspect(c, rows).good) == 6


def test_tgs_submits_in_the_samples_order(tmp_path: Path) -> None:
    c = config(tgs(tmp_path), data__format="tgs")
    spec = layout("tgs").submission(c)
    assert (spec.ids, spec.columns, spec.kind) == (["t1", "t0"], ("id", "rle_mask"), "rle")
    assert [row.id for row in layout("tgs").test(c)] == spec.ids
    assert layout("tgs").test_truth(c) is None
    (tmp_path / "sample_submission.csv").unlink()
    assert layout("tgs").submission(c).ids == ["t0", "t1"]
    (tmp_path / "sample_submission.csv").write_text("id\nt0\nnone\n")
    assert [bool(row.problem) for row in layout("tgs").test(c)] == [False, True]


def test_a_folder(tmp_path: Path) -> None:
    root = folder(tmp_path)
    (root / "images/notes.txt").write_text("no image")
    c = config(root, data__limit=4)
    module = layout("folder")
    rows = module.train(c)
    assert [row.id for row in rows] == ["a0", "a1", "a2", "a3"]
    assert all(Path(row.image).is_absolute() for row in rows)
    assert [row.id for row in module.test(c)] == module.submission(c).ids == ["t0", "t1"]
    assert module.submission(c).kind == "masks" and module.test_truth(c) is None
    without = config(root, data__folder={"test_images": None})
    assert module.test(without) == []


def test_a_folder_with_other_suffixes_and_truth(tmp_path: Path) -> None:
    save(tmp_path / "pics/x.1.jpg", gray(0))
    save(tmp_path / "pics/y.jpg", gray(1))
    for stem in ("x.1", "y"):
        save(tmp_path / f"labels/{stem}_mask.png", blob(1))
        save(tmp_path / f"labels/{stem}_preview.png", gray(2))
    options = {
        "images": "pics", "masks": "labels", "mask_suffix": "_mask",
        "test_images": "pics", "test_masks": "labels",
    }  # fmt: skip
    c = config(tmp_path, data__folder=options)
    rows = layout("folder").train(c)
    assert [(r.id, r.problem) for r in rows] == [("x.1", ""), ("y", "")]
    truth = layout("folder").test_truth(c)
    assert truth is not None and [r.target for r in truth] == [r.target for r in rows]


def test_a_folder_of_masks_per_class(tmp_path: Path) -> None:
    for i in range(3):
        save(tmp_path / f"images/a{i}.png", gray(i))
    save(tmp_path / "masks/a/a0.png", blob(1))
    save(tmp_path / "masks/b/a0.png", blob(2))
    save(tmp_path / "masks/b/a1.png", blob(2))
    c = config(tmp_path, **LABELS)
    checked = inspect(c, layout("folder").train(c))
    assert [row.id for row in checked.good] == ["a0", "a1"]
    assert [bad[0] for bad in checked.quarantine] == ["a2"]
    assert [tuple(v > 0 for v in f.coverage) for f in checked.facts] == [
        (True, True),
        (False, True),
    ]
    assert layout("folder").submission(c).class_ids == ("a", "b")


SAMPLES: dict[str, tuple[str, str, str]] = {
    "tgs": ("test/images", "sample_submission.csv", "id,rle_mask\n{},\n"),
    "severstal": (
        "test_images", "sample_submission.csv", "ImageId_ClassId,EncodedPixels\n{}.png_1,\n",
    ),
    "tianchi": ("test_a", "test_a_samplesubmit.csv", "{}.png\t\n"),
}  # fmt: skip


@pytest.mark.parametrize("form", SAMPLES)
def test_a_sample_fits_test_images_from_a_mac(tmp_path: Path, form: str) -> None:
    """The id is as the sample writes it, the path as the file is called."""
    place, sample, text = SAMPLES[form]
    name = "b\u00e4ume"
    path = save(tmp_path / place / f"{unicodedata.normalize('NFD', name)}.png", gray(1))
    (tmp_path / sample).write_text(text.format(name))
    (row,) = layout(form).test(config(tmp_path, data__format=form))
    assert (row.id.removesuffix(".png"), row.image, row.problem) == (name, str(path), "")


def test_the_report_counts(tmp_path: Path) -> None:
    root = folder(tmp_path)
    save(root / "images/a3.png", np.zeros((16, 16), np.uint8))
    shutil.copy(root / "images/a1.png", root / "images/a2.png")
    (root / "images/a5.png").write_bytes(b"")
    c = config(root)
    checked = inspect(c, layout("folder").train(c))
    text = report(c, checked, num_test=2)
    assert "5 train images, 2 test images" in text and "16x16 (5)" in text
    assert "images of one value: 1; byte-identical to another: 2 in 1 groups" in text
    assert "2 of 5 empty" in text and "quarantine: 1\n  a5" in text and "L (5)" in text


def synthetic(root: Path, **options: Any) -> Config:
    settings = {"num_train": 10, "num_test": 4, "height": 32, "width": 48, **options}
    return config(
        root, data__format="synthetic", data__cache_dir=str(root), data__synthetic=settings
    )


def test_synthetic_is_a_function_of_its_settings(tmp_path: Path) -> None:
    one, two = (synthetic(tmp_path / n) for n in "ab")
    pairs = zip(made.train(one), made.train(two), strict=True)
    assert all(Path(a.image).read_bytes() == Path(b.image).read_bytes() for a, b in pairs)
    other = made.train(synthetic(tmp_path / "a", seed=1))
    assert Path(other[0].image).read_bytes() != Path(made.train(one)[0].image).read_bytes()
    stamp = Path(other[0].image).stat().st_mtime_ns
    assert Path(made.train(synthetic(tmp_path / "a", seed=1))[0].image).stat().st_mtime_ns == stamp


def test_synthetic_has_empties_noise_and_truth(tmp_path: Path) -> None:
    c = synthetic(tmp_path, num_train=40, empty=0.25, noise=0.2, channels=3)
    clean = synthetic(tmp_path, num_train=40, empty=0.25, channels=3)
    rows, right = made.train(c), made.train(clean)

    def masks(rows: list) -> list[np.ndarray]:
        return [np.asarray(Image.open(row.target.removeprefix("file:"))) for row in rows]

    assert sum(not m.any() for m in masks(right)) == 10
    wrong = [
        r.id for r, a, b in zip(rows, masks(rows), masks(right), strict=True) if (a != b).any()
    ]
    listed = (Path(rows[0].image).parents[2] / "noise.csv").read_text().split()[1:]
    assert wrong == listed and len(wrong) == 8
    assert np.asarray(Image.open(rows[0].image)).shape == (32, 48, 3)
    truth = made.test_truth(c)
    assert truth is not None and [r.id for r in truth] == made.submission(c).ids
    assert not any(r.problem for r in truth) and made.submission(c).kind == "rle"
    assert made.test_truth(synthetic(tmp_path, num_test=0)) is None


def test_gray_values_do_not_give_the_objects_away(tmp_path: Path) -> None:
    c = synthetic(tmp_path, num_train=60, height=64, width=64)
    rows = made.train(c)
    images = np.stack([np.asarray(Image.open(r.image)) for r in rows]).astype(int)
    truth = np.stack([np.asarray(Image.open(r.target.removeprefix("file:"))) > 0 for r in rows])

    def dice(pred: np.ndarray) -> float:
        size = pred.sum((1, 2)) + truth.sum((1, 2))
        both = (pred & truth).sum((1, 2))
        return float(np.where(size == 0, 1, 2 * both / np.maximum(size, 1)).mean())

    nothing = dice(np.zeros_like(truth))
    assert 0.25 < nothing < 0.35
    cuts = [dice(side * images > side * t) for side in (1, -1) for t in range(20, 240, 10)]
    assert max(cuts) < 0.4


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
def test_synthetic_of_several_classes(tmp_path: Path, task: str) -> None:
    settings = {"num_train": 12, "num_test": 0, "height": 32, "width": 32}
    c = config(
        tmp_path, task=task, classes=["x", "y", "z"], data__format="synthetic",
        data__cache_dir=str(tmp_path), data__synthetic=settings,
        stages=[{"loss": {"dice": 1.0}}],
    )  # fmt: skip
    checked = inspect(c, made.train(c))
    assert not checked.quarantine and (checked.coverage.mean(axis=0) > 0).all()
