"""The finished ensemble on new images: what it writes, broken images, bounded memory."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from distseg.ensemble.fit import fit_ensemble
from distseg.functional.rle import decode
from distseg.inference.predict_files import predict_files
from distseg.records.errors import UserError
from distseg.records.manifest import Manifest
from distseg.records.paths import Run
from distseg.rounds.choose import choose_final
from distseg.run.launched import predict_test_here
from distseg.run.submission import submission_path
from distseg.submission.write import share_path
from distseg.training.train import train_member
from tests.training.tiny_training import set_up


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of one member on both folds, with its ensemble."""
    torch.set_num_threads(1)
    config, run = set_up(tmp_path_factory.mktemp("predict"))
    from distseg.config.load import dump_config
    from distseg.records.files import atomic_write

    atomic_write(run.config, dump_config(config))
    for fold in (0, 1):
        train_member(config, run.folder, 0, "a", fold)
    fit_ensemble(config, run, 0)
    choose_final(run, 0)
    return run


def make_images(folder: Path, count: int, size: int = 32) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        image = rng.integers(0, 256, (size, size), dtype=np.uint8)
        cv2.imwrite(str(folder / f"img{number:05d}.png"), image)


def test_masks_and_rle_agree_and_broken_images_are_named(run: Run, tmp_path: Path) -> None:
    make_images(tmp_path / "in", 5)
    (tmp_path / "in" / "broken.png").write_bytes(b"\x89PNG not really")
    broken = predict_files(
        run.folder, tmp_path / "in", tmp_path / "out", tmp_path / "rle.csv"
    ).broken
    assert [name for name, _ in broken] == ["broken"]
    lines = (tmp_path / "rle.csv").read_text().splitlines()
    assert lines[0] == "id,rle"
    assert len(lines) == 1 + 6 and "broken," in lines
    assert not (tmp_path / "out" / "broken.png").exists(), "of a size that nobody knows"
    for line in lines[1:]:
        name, rle = line.split(",")
        if name == "broken":
            continue
        mask = np.asarray(cv2.imread(str(tmp_path / "out" / f"{name}.png"), cv2.IMREAD_UNCHANGED))
        assert np.array_equal(mask > 0, decode(rle, *mask.shape) > 0)
        assert set(np.unique(mask)) <= {0, 255}


def test_other_sizes_come_back_at_their_own_size(run: Run, tmp_path: Path) -> None:
    make_images(tmp_path / "in", 1, 32)
    cv2.imwrite(str(tmp_path / "in" / "wide.png"), np.zeros((20, 30), np.uint8))
    predict_files(run.folder, tmp_path / "in", tmp_path / "out")
    assert np.asarray(cv2.imread(str(tmp_path / "out" / "wide.png"), 0)).shape == (20, 30)


def test_larger_images_and_broken_ones_go_beside_the_others(run: Run, tmp_path: Path) -> None:
    """A larger canvas than the config's pad, and files whose size is not known, in one folder."""
    make_images(tmp_path / "in", 3, 32)
    cv2.imwrite(str(tmp_path / "in" / "large.png"), np.zeros((50, 70), np.uint8))
    (tmp_path / "in" / "a,b.png").write_bytes(b"no image")
    broken = predict_files(
        run.folder, tmp_path / "in", tmp_path / "out", tmp_path / "rle.csv"
    ).broken
    assert [name for name, _ in broken] == ["a,b"]
    assert np.asarray(cv2.imread(str(tmp_path / "out" / "large.png"), 0)).shape == (50, 70)
    with (tmp_path / "rle.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert {len(row) for row in rows} == {2} and ["a,b", ""] in rows


@pytest.mark.parametrize(("first", "count"), [(0, 1), (0, 3), (1, 2)])
def test_shares_go_to_however_many_ranks_there_are(run: Run, first: int, count: int) -> None:
    """One rank here, of a job that was counted for up to three."""
    path = submission_path(run, "rle")
    predict_test_here(run, None, first, count, 3)
    parts = [share_path(path, share, 3) for share in range(3)]
    done = [number for number, part in enumerate(parts) if part.is_dir()]
    assert done == list(range(first, first + count))
    ids = [json.loads(line)["id"] for n in done for line in (parts[n] / "rows.jsonl").open()]
    tests = [s.id for s in Manifest.read(run.data / "test.csv")]
    assert sorted(ids) == sorted(name for n in done for name in tests[n::3])
    made = {n: (parts[n] / "rows.jsonl").stat().st_ino for n in done}
    predict_test_here(run, None, first, count, 3)  # a second start finds them done
    assert made == {n: (parts[n] / "rows.jsonl").stat().st_ino for n in done}
    for part in parts:
        shutil.rmtree(part, ignore_errors=True)


def test_no_images_is_the_users_mistake(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        predict_files(run.folder, tmp_path / "absent", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no image files"):
        predict_files(run.folder, tmp_path / "empty", tmp_path / "out")


MEASURE = """
import resource, sys, torch
from pathlib import Path
torch.set_num_threads(2)
from distseg.inference.predict_files import predict_files
predict_files(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[3] + ".csv"))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_peak_memory_does_not_grow_with_the_images(run: Run, tmp_path: Path) -> None:
    """Each in a process of its own: peak resident memory of 2,402 images against 240."""
    peaks: dict[int, Any] = {}
    for count in (240, 2402):
        make_images(tmp_path / f"in{count}", count, 101)
        command = [sys.executable, "-c", MEASURE, str(run.folder), str(tmp_path / f"in{count}")]
        result = subprocess.run(
            [*command, str(tmp_path / f"out{count}")], capture_output=True, text=True, check=True
        )
        peaks[count] = int(result.stdout.split()[-1])
    print(f"peak memory in MB: {peaks[240] / 1024:.0f} and {peaks[2402] / 1024:.0f}")
    assert peaks[2402] <= 1.1 * peaks[240], peaks
