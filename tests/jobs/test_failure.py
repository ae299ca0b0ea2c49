"""Why a job failed, and with how small a batch it is tried again."""

from __future__ import annotations

from pathlib import Path

import pytest

from distseg.config.load import load_config
from distseg.config.schema import Config
from distseg.distributed import make_accelerator
from distseg.jobs.failure import cause_in_log, smaller_batch, tail
from distseg.jobs.job import Job, train_job
from distseg.records.manifest import Manifest, Sample
from distseg.training.member import Member
from tests.jobs.driver import scripted
from tests.tiny import tiny_tree
from tests.training.tiny_training import set_up


def test_a_job_without_members_goes_again_as_it_is(tmp_path: Path) -> None:
    job = Job("predict-test-0", ("predict-test", "run"), tmp_path / "log")
    assert smaller_batch(job, Config.model_validate(tiny_tree()), 1) == job


def test_a_batch_of_one_cannot_be_halved(tmp_path: Path) -> None:
    run = scripted(tmp_path)
    config = load_config(run.config, ["train.batch_size=8"])
    job = train_job(run, 0, [("a", 0)])
    for factor in (2, 4):
        smaller = smaller_batch(job, config, 2)
        assert smaller is not None
        job = smaller
        assert job.overrides == (f"train.accumulation={factor}",)
    assert smaller_batch(job, config, 2) is None  # 8 images, 2 ranks, 4 parts: one image each


@pytest.mark.parametrize(
    ("entry", "halves"),
    [({"kind": "mean_teacher"}, 1), ({"kind": "pseudo_label", "mix": "ratio"}, 1),
     ({"kind": "pseudo_label"}, 3)],
)  # fmt: skip
def test_the_share_of_a_batch_stays_whole(tmp_path: Path, entry: dict, halves: int) -> None:
    """8 images, of which 2 are test images in each: the member takes every batch that is tried."""
    rounds = [{}, {**entry, "share": 0.25}]
    config, run = set_up(tmp_path, rounds=rounds)
    samples = [*Manifest.read(run.truth), *(
        Sample(f"test:{i}", "x.png", "rle:1 3", origin=origin, height=32, width=32)
        for i, origin in enumerate(["unlabeled" if "teacher" in entry["kind"] else "pseudo"] * 4)
    )]  # fmt: skip
    run.train_set(1, 0).parent.mkdir(parents=True, exist_ok=True)
    Manifest(samples).write(run.train_set(1, 0))
    job, tried = train_job(run, 1, [("a", 0)]), 0
    while smaller := smaller_batch(job, config, 1):
        job, tried = smaller, tried + 1
        (text,) = job.overrides
        train = config.train.model_copy(update={"accumulation": int(text.rpartition("=")[2])})
        own = config.model_copy(update={"train": train})
        Member(own, run, 1, "a", 0, make_accelerator(own, cpu=True)).sampling(0)
    assert tried == halves
    assert (smaller_batch(train_job(run, 1, [("a", 0)]), config, 2) is None) == (halves == 1)


def test_cause_in_log(tmp_path: Path) -> None:
    log = tmp_path / "launch.log"
    log.write_text("ValueError: old\n")
    start = log.stat().st_size
    assert cause_in_log(log, start) is None
    with log.open("a") as file:
        file.write("torch.OutOfMemoryError: CUDA out of memory\n")
        file.write("subprocess.CalledProcessError: Command failed\n")
    assert cause_in_log(log, start) == ("error", "torch.OutOfMemoryError: CUDA out of memory")
    assert cause_in_log(tmp_path / "absent", 0) is None


def test_tail_is_the_end_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "launch.log"
    log.write_text("".join(f"line {number}\n" for number in range(100_000)))
    assert tail(log, 2) == "line 99998\nline 99999"
    assert tail(tmp_path / "absent") == ""
