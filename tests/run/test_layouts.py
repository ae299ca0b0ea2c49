"""A table and a COCO file, from their files to the submission."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy import ndimage

from distseg.cli import main
from distseg.functional.rle import decode
from distseg.records.manifest import Manifest
from distseg.records.paths import Run
from tests.data.formats import table_sets, test_coco

SMALL = {"arch": "PlainUnet", "encoder": "none", "decoder": {"filters": 4, "depth": 1}}


def _config(tmp_path: Path, **sections: Any) -> Path:
    tree = {
        "name": "t",
        "input": {"height": 32, "width": 64, "fit": "resize"},
        "members": {"a": SMALL},
        "stages": [{"loss": {"bce": 1.0}, "schedule": {"epochs_per_cycle": 2}}],
        "train": {"batch_size": 4},
        "postprocess": {"threshold": 0.5},
        "compute": {"cpu_threads": 1},
        **sections,
    }
    path = tmp_path / "t.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def _run(config: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(config.parent)
    assert main(["plan", str(config)]) == 0
    assert main(["run", str(config), "--out", "run"]) == 0
    return Run(config.parent / "run")


@pytest.mark.slow
def test_ships_in_a_row_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every object of the submission has a row, and what is whole is not made again."""
    made = table_sets.airbus(tmp_path / "data")
    config = _config(
        tmp_path, data={"format": "table", "root": "data", "folds": {"num": 2}},
        submission={"per_object": True}, postprocess={"threshold": 0.45},
    )  # fmt: skip
    run = _run(config, monkeypatch)
    truth = Manifest.read(run.truth)
    assert {row.id for row in truth} == set(made.truth) and truth.folds == [0, 1]
    objects: dict[str, list[Any]] = {}
    with run.submission.open(newline="") as file:
        for row in csv.DictReader(file):
            own = decode(row["EncodedPixels"], table_sets.HEIGHT, table_sets.WIDTH)
            objects.setdefault(row["ImageId"], []).append(own)
    assert list(objects) == ["b.jpg", "a.jpg"]
    for planes in objects.values():
        assert np.sum(planes, axis=0).max() <= 1
        assert all(ndimage.label(plane, np.ones((3, 3)))[1] <= 1 for plane in planes)
    before = run.submission.stat().st_mtime_ns
    assert main(["run", str(config), "--out", "run"]) == 0
    assert run.submission.stat().st_mtime_ns == before


@pytest.mark.slow
def test_coco_validates_on_its_own_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole: Callable[[Path], None] = test_coco.whole
    whole(tmp_path / "data")
    config = _config(
        tmp_path, task="multilabel", classes=["cat", "dog"],
        data={"format": "coco", "root": "data", "folds": {"kind": "split"}},
    )  # fmt: skip
    run = _run(config, monkeypatch)
    folds = {row.id: row.fold for row in Manifest.read(run.truth)}
    assert folds == {**{f"t{n}": -1 for n in range(6)}, "v0": 0, "v1": 0}
    masks = sorted(p.relative_to(run.test_masks).as_posix() for p in run.test_masks.rglob("*.png"))
    assert masks == ["cat/y.png", "cat/z.png", "dog/y.png", "dog/z.png"]
