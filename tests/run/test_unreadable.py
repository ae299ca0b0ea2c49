"""Test images that cannot be read: the submission has what it can for them, and the run says it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distseg.config.load import dump_config, parse_config
from distseg.config.schema import Config
from distseg.data.layouts import layout
from distseg.records.paths import Run
from distseg.run.launched import predict_test_here
from distseg.run.submission import score_test, submission_path, tell_unreadable
from distseg.submission.read import open_masks
from distseg.submission.write import ShareWriter, merge_shares
from tests.attack.victim import trained_run, victim_tree
from tests.data.data_helpers import save
from tests.made_run import write_data


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A trained run of four test images, of which one was cut off, and one is no image at all."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("unreadable")
    write_data(folder / "data", num=12)
    images = sorted((folder / "data" / "test_images").iterdir())
    images[1].write_bytes(images[1].read_bytes()[:-40])
    images[2].write_bytes(b"no image")
    tree = victim_tree(folder / "data")
    tree["data"]["folder"] = {"test_masks": "test_masks"}
    return trained_run(tree, folder / "run")


def submit(run: Run, config: Config) -> Path:
    """As the pipeline does, in this process."""
    run.config.write_text(dump_config(config))
    spec = layout("folder").submission(config)
    path = submission_path(run, spec.kind)
    predict_test_here(run, None, 0, 1, 1)
    merge_shares(spec, path, 1, task=config.task)
    tell_unreadable(run, spec.kind)
    run.log_event("submission", path=str(path))
    return path


def with_submission(run: Run, kind: str) -> Config:
    from distseg.config.load import load_config

    return load_config(run.config, [f"data.folder.submission={kind}"])


def test_a_mask_of_an_unknown_size_is_left_out(made: Run, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        path = submit(made, with_submission(made, "masks"))
    assert {file.stem for file in path.glob("*.png")} == {f"test_images00{i}" for i in (0, 1, 3)}
    assert not np.asarray(open_masks(path).values("test_images001", 12, 10)).any()
    said = [record.getMessage() for record in caplog.records if record.name == "distseg.run"]
    assert any("1 of 4 test images cannot be read and get an empty mask: test_images001" in one
               for one in said)  # fmt: skip
    assert any("get no mask in the submission: their size is not known: test_images002" in one
               for one in said)  # fmt: skip
    record = score_test(with_submission(made, "masks"), made)["test"]
    assert record["num_images"] == 3, "a board counts the empty mask, too"


def test_a_row_of_an_rle_needs_no_size(made: Run, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        path = submit(made, with_submission(made, "rle"))
    rows = path.read_text().splitlines()
    assert len(rows) == 5 and "test_images001," in rows and "test_images002," in rows
    said = [record.getMessage() for record in caplog.records if record.name == "distseg.run"]
    assert any("2 of 4 test images cannot be read and get an empty mask" in one for one in said)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
@pytest.mark.parametrize("kind", ["rle", "masks"])
def test_of_several_classes(tmp_path: Path, task: str, kind: str) -> None:
    """An unknown image is of no class, and not of the background."""
    for i in range(2):
        save(tmp_path / "data" / "test_images" / f"t{i}.png", np.zeros((4, 4), np.uint8))
    classes: dict[str, Any] = {"task": task, "classes": ["x", "y"]}
    if task == "multiclass":
        classes["stages"] = [{"loss": {"cross_entropy": 1.0}}]
    tree = {
        "name": "t", "data": {"root": str(tmp_path / "data"), "folder": {"submission": kind}},
        "members": {"a": {}}, **classes,
    }  # fmt: skip
    config = parse_config(tree, "test")
    spec, path = layout("folder").submission(config), tmp_path / "out"
    planes = 2 if task == "multilabel" else 1
    writer = ShareWriter(spec, path, task=task)
    writer.add("t0", np.ones((planes, 4, 4), np.uint8))
    writer.leave_out("t1", np.zeros((planes, 9, 9), np.uint8), is_sized=False)
    writer.close()
    merge_shares(spec, path, 1, task=task)
    source = open_masks(path)
    if kind == "masks":
        assert not any(key.startswith("t1") for key in source.keys)
    else:
        assert [row for row in path.read_text().splitlines() if row.startswith("t1")] == [
            "t1_x,", "t1_y,",
        ]  # fmt: skip
