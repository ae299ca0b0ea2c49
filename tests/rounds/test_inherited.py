"""Rounds that build on pseudo-labels and soft targets of the rounds before, and on test images that
no student can train on."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from distseg.config.schema import Config
from distseg.data.dataset import SOFT_SCALE
from distseg.data.prepare import open_unlabeled_cache, prepare
from distseg.distributed import make_accelerator
from distseg.functional.losses import distill
from distseg.records.manifest import Manifest
from distseg.records.paths import Run, round_of
from distseg.rounds.predict_teachers import predict_teachers
from distseg.rounds.select import LARGE, select
from distseg.training.loss import compute_loss
from distseg.training.member import Member
from distseg.training.stage import set_up_stage
from distseg.training.train import train_member
from tests.rounds.tiny_rounds import PSEUDO, config_of, play, write_images
from tests.training.tiny_training import losses

TEACHER = {"kind": "mean_teacher", "share": 0.25}
DISTILL = {"kind": "distill", "teacher": "fold", "rules": {}, "match_strata": False}
TESTS = 6
MEMBERS = {"a": {"arch": "PlainUnet", "encoder": "none", "decoder": {"filters": 4, "depth": 2}}}
STAGE = {"optimizer": {"name": "adamw", "lr": 1e-3}, "schedule": {"epochs_per_cycle": 1}}


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Config, Run]:
    """A run whose third round is one of a mean teacher, after soft targets at temperature 4; its
    student of fold 0 is trained."""
    folder = tmp_path_factory.mktemp("taught")
    write_images(folder / "data")
    rounds = ({**DISTILL, "temperature": 4.0}, TEACHER)
    config = config_of(folder / "data", *rounds, stages=[STAGE], members=MEMBERS)
    run = Run(folder / "run")
    play(config, run, 2, folds=[0])
    return folder, config, run


def member_of(config: Config, run: Run, key: int) -> Member:
    return Member(config, run, key, "a", 0, make_accelerator(config, cpu=True))


def test_a_mean_teacher_takes_all_test_images_beside_pseudo_labels(
    taught: tuple[Path, Config, Run],
) -> None:
    _, config, run = taught
    manifest, ids = Manifest.read(run.train_set(2, 0)), [s.id for s in Manifest.read(run.unlabeled)]
    by_origin = {
        one: [s.id for s in manifest if s.origin == one] for one in ("pseudo", "unlabeled")
    }
    assert by_origin == {
        "pseudo": [f"test:{one}" for one in ids],
        "unlabeled": [f"unlabeled:{one}" for one in ids],
    }
    assert len(ids) == TESTS and run.member(2, "a", 0).done.is_file()
    assert all(np.isfinite(losses(run.member(2, "a", 0))))
    member = member_of(config, run, 2)
    rows = {sample.id: row for row, sample in enumerate(manifest)}
    for one in ids:
        left, right = (member.data.image(rows[f"{kind}:{one}"]) for kind in ("test", "unlabeled"))
        assert np.array_equal(left, right)
    sampling = member.sampling(0)
    assert {manifest[row].origin for row in sampling.mixed} == {"unlabeled"}
    assert {manifest[row].origin for row in sampling.rows} == {"labeled", "pseudo"}


def test_soft_targets_keep_their_temperature_in_later_rounds(
    taught: tuple[Path, Config, Run],
) -> None:
    _, config, run = taught
    assert [entry.temperature for entry in config.rounds] == [1.0, 4.0, 1.0]
    first, later = member_of(config, run, 1), member_of(config, run, 2)
    rows = {sample.id: row for row, sample in enumerate(later.manifest)}
    for row, sample in enumerate(first.manifest):
        assert np.array_equal(first.data.soft(row), later.data.soft(rows[sample.id]))
    sample = next(s for s in later.manifest if s.soft and s.origin == "labeled")
    logits = later.data.predictions[sample.soft].of(sample.id).astype(np.float64)
    told = SOFT_SCALE / (1 + np.exp(-logits / 4))
    assert np.abs(later.data.soft(rows[sample.id]) - told).max() <= 0.5 + 1e-3
    stage = set_up_stage(later, 0)
    loaded = next(iter(stage.batches.epoch(0)))
    warm = [4.0 if later.manifest[row].soft else 1.0 for row in loaded.rows]
    assert loaded.tensors["temperature"].tolist() == warm and 1.0 in warm

    batch = stage.batches.on_device(loaded.tensors)
    soft, share = batch.soft_BCHW, batch.soft_share_B
    assert soft is not None and share is not None
    given = torch.linspace(-3, 3, batch.images_BCHW.numel()).reshape(batch.images_BCHW.shape)
    plain = replace(batch, view_BCHW=None)
    found = compute_loss(lambda _: (given, None), plain, stage.terms, lambda: torch.no_grad())
    hard = stage.terms.main(given, batch.target, batch.valid_BHW)
    by_hand = torch.stack([
        distill(given[i : i + 1], soft[i : i + 1], batch.valid_BHW[i : i + 1], temperature=t)[0]
        for i, t in enumerate(warm)
    ])  # fmt: skip
    torch.testing.assert_close(found, (1 - share) * hard + share * by_hand)


def test_rounds_of_paths() -> None:
    assert round_of("round_12/select/labeled_fold0/logits") == 12
    for path in ("", "round_", "round_x/y", "round_1a/y", "select/round_1", "/round_1/a"):
        assert round_of(path) is None


# -- test images that are larger than a padded input ----------------------------------------------


@pytest.fixture(scope="module")
def with_large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("large")
    write_images(folder / "data")
    pixels = np.random.default_rng(0).integers(0, 256, (48, 40), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "data" / "test_images" / "large.png")
    return folder


def begun(folder: Path, run: Run, entry: dict[str, Any]) -> Config:
    """A run that is ready for its second round, whose students start from scratch."""
    torch.set_num_threads(1)
    config = config_of(folder / "data", entry, stages=[STAGE], members=MEMBERS)
    prepare(config, run)
    open_unlabeled_cache(config, run)
    return config


def test_no_round_learns_from_an_image_that_is_larger_than_a_padded_input(
    with_large: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(tmp_path / "run")
    config = begun(with_large, run, TEACHER)
    select(config, run, 1)
    assert "no student learns from 1 test image of 7; the first: " in caplog.text
    assert "large.png: 48x40 is larger than the input 32x32 of member a" in caplog.text
    rows = [s for s in Manifest.read(run.train_set(1, 0)) if s.origin == "unlabeled"]
    assert len(rows) == TESTS and "unlabeled:large" not in {s.id for s in rows}
    train_member(config, run.folder, 1, "a", 0)
    assert run.member(1, "a", 0).done.is_file()


def test_a_teacher_may_judge_it_and_no_student_gets_it(with_large: Path, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    config = begun(with_large, run, {**PSEUDO, "targets": "soft"})
    train_member(config, run.folder, 0, "a", 0)
    predict_teachers(run.folder, config, 1)
    select(config, run, 1)
    with (run.select(1) / "fold0.csv").open(newline="") as file:
        told = {row["id"]: (row["kept"], row["reason"]) for row in csv.DictReader(file)}
    assert len(told) == TESTS + 1 and told.pop("large") == ("0", LARGE)
    assert set(told.values()) == {("1", "")}
    train_member(config, run.folder, 1, "a", 0)
    assert run.member(1, "a", 0).done.is_file()
