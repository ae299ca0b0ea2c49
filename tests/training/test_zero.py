"""ZeRO: the curve of DDP, kills, and a snapshot that needs no DeepSpeed; by the real launcher.

What DeepSpeed itself does is slow to start (imports) and needs the extra `deepspeed`: the tests
that launch are marked slow and skipped without it.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from distseg.config.load import parse_config
from distseg.config.zero import ZERO_OPTIMIZERS
from distseg.data.prepare import prepare
from distseg.distributed import launch_file
from distseg.models import checkpoint
from distseg.records.errors import UserError
from distseg.records.files import read_json, read_lines
from distseg.records.paths import MemberPaths, Run
from distseg.training.zero import make_zero_accelerator, set_environment
from tests.house import imports, modules
from tests.tiny import ROOT, tiny_tree, wait_until
from tests.training.tiny_frozen import changed, frozen_tree, write_weights
from tests.training.tiny_training import assert_same_bits, kill_tree, losses

FILES = ROOT / "launch" / "accelerate"
needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="needs the extra `deepspeed`"
)


def zero_tree(zero: int = 0, **changes: Any) -> dict[str, Any]:
    """BatchNorm, and weights of over 1e5 elements, which ZeRO-3 really fetches and gives back."""
    tree = tiny_tree()
    member = {"arch": "PlainUnet", "encoder": "none", "decoder": {"filters": 32, "depth": 3}}
    tree |= {"members": {"a": member}}
    tree["compute"] = {**tree["compute"], "zero": zero, **changes.pop("compute", {})}
    return {**tree, **changes}


# -- what needs no DeepSpeed ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compute": {"zero": 4}}, "compute.zero: 4 is not valid. Valid: 0, 1, 2 or 3"),
        ({"compute": {"zero": 1, "offload": True}}, "needs compute.zero: 2 or 3, not 1"),
        ({"compute": {"offload": True}}, "needs compute.zero: 2 or 3, not 0"),
        ({"compute": {"zero": 3}, "train": {"ema_decay": 0.9}}, "train.ema_decay: 0.9"),
        ({"compute": {"zero": 2, "compile": True}}, "compute.compile: true"),
        ({"compute": {"zero": 2, "precision": "fp16"}}, "compute.precision: fp16"),
        ({"compute": {"zero": 1}, "stages": [{"optimizer": {"name": "muon"}}]}, "'muon'"),
        ({"compute": {"zero": 1}, "stages": [{"optimizer": {"name": "lamb"}}]}, "'lamb'"),
    ],
)
def test_what_cannot_work_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match="compute") as caught:
        parse_config(tiny_tree(**changes), "test")
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["adam_w", "SGD", *ZERO_OPTIMIZERS])
def test_what_works_is_taken(name: str) -> None:
    changes: dict[str, Any] = {"train": {"ema_decay": 0.9}, "compute": {"zero": 2, "offload": True}}
    tree = tiny_tree(stages=[{"optimizer": {"name": name}, "swa": True}], **changes)
    assert parse_config(tree, "test").stages[0].optimizer.name == name  # no mistake is named


def test_plain_ddp_takes_nothing_from_it() -> None:
    """Neither this file nor DeepSpeed is imported before `compute.zero` asks for it."""
    known, reached, waiting = modules(), set(), ["distseg.training.train"]
    while waiting:
        module = waiting.pop()
        if module in reached:
            continue
        reached.add(module)
        if module in known:
            names = [name for _, name in imports(known[module], at_import=True)]
            waiting += names + [name.rpartition(".")[0] for name in names]
    assert "distseg.training.engine" in reached and "distseg.training.zero" not in reached
    assert not {name for name in reached if name.startswith("deepspeed")}


def test_without_deepspeed_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install '(\.|distseg)\[deepspeed\]'"):
        make_zero_accelerator(parse_config(zero_tree(1), "test"))


def test_a_process_alone_makes_its_own_group() -> None:
    environment = {"ACCELERATE_USE_CPU": "true", "PATH": "/bin"}
    set_environment(environment, cpu=True)
    assert "ACCELERATE_USE_CPU" not in environment and environment["DS_ACCELERATOR"] == "cpu"
    assert environment["WORLD_SIZE"] == "1" and environment["PATH"].endswith(":/bin")
    rank = {"LOCAL_RANK": "1", "WORLD_SIZE": "2"}
    set_environment(rank, cpu=False)
    assert rank["WORLD_SIZE"] == "2" and "MASTER_PORT" not in rank


def test_shards_live_as_long_as_the_state_that_names_them(tmp_path: Path) -> None:
    tree: dict[str, Any] = {
        "state": {0: {"exp_avg": torch.arange(3.0)}},
        "groups": [{"betas": (0.9, 0.99)}],
    }
    for name in ("shard_a.safetensors", "shard_b.safetensors"):
        checkpoint.save_shard(tmp_path / name, tree)
        checkpoint.save_state(tmp_path, {"shards": [name]}, {}, [name])
        assert sorted(p.name for p in tmp_path.glob("shard_*")) == [name]
    loaded = checkpoint.load_shard(tmp_path / name)
    assert torch.equal(loaded["state"][0].pop("exp_avg"), tree["state"][0].pop("exp_avg"))
    assert loaded == tree
    checkpoint.save_state(tmp_path, {}, {})
    assert not list(tmp_path.glob("shard_*"))


# -- two ranks ------------------------------------------------------------------------------------


def start(script: Path, file: str, *arguments: str) -> subprocess.Popen[str]:
    """The documented command: two gloo ranks by a file of launch/accelerate/."""
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--config_file", str(FILES / file), str(script), *arguments]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def begin(folder: Path, zero: int, **changes: Any) -> tuple[subprocess.Popen[str], MemberPaths]:
    tree = zero_tree(zero, **changes)
    config, run = parse_config(tree, "test"), Run(folder / "run")
    if not run.folder.is_dir():
        run.folder.mkdir(parents=True)
        prepare(config, run)
        (folder / "tiny.yaml").write_text(yaml.safe_dump(tree))
    arguments = (str(folder / "tiny.yaml"), "--member", "a", "--fold", "0", "--out")
    file = launch_file(config.compute) if zero else "cpu_2ranks.yaml"
    process = start(ROOT / "launch" / "train.py", file, *arguments, str(run.folder))
    return process, run.member(0, "a", 0)


def finish(process: subprocess.Popen[str]) -> str:
    output = process.communicate(timeout=600)[0]
    assert process.returncode == 0, output
    return output


@pytest.fixture(scope="module")
def ddp(tmp_path_factory: pytest.TempPathFactory) -> MemberPaths:
    process, paths = begin(tmp_path_factory.mktemp("ddp"), 0)
    finish(process)
    return paths


@needs_deepspeed
@pytest.mark.slow
@pytest.mark.parametrize("zero", [1, 2, 3])
def test_the_curve_is_that_of_ddp_and_a_kill_changes_nothing(
    tmp_path: Path, ddp: MemberPaths, zero: int
) -> None:
    """One micro-batch a step: the sum of two is rounded elsewhere than DDP's, and AdamW's first
    steps turn the last bit of a gradient near 0 into 1e-5 of a loss."""
    process, whole = begin(tmp_path / "whole", zero)
    finish(process)
    assert losses(whole) == pytest.approx(losses(ddp), abs=1e-6)
    assert read_json(whole.done)["score"] == pytest.approx(read_json(ddp.done)["score"], abs=1e-4)

    process, cut = begin(tmp_path / "cut", zero)
    wait_until(lambda: len(read_lines(cut.metrics)) >= 1, "an epoch is trained")
    kill_tree(process.pid, signal.SIGKILL)
    process.communicate()
    assert not cut.done.exists(), "it ended before it was killed: the test shows nothing"
    process, _ = begin(tmp_path / "cut", zero)
    assert "resumes at epoch" in finish(process)
    assert_same_bits(whole, cut)


@needs_deepspeed
@pytest.mark.slow
@pytest.mark.parametrize("zero", [1, 2, 3])
def test_the_snapshot_predicts_as_the_live_model(tmp_path: Path, zero: int) -> None:
    status, output = work(tmp_path, zero, "snapshot")
    assert status == 0, output


@needs_deepspeed
@pytest.mark.slow
@pytest.mark.parametrize("zero", [2, 3])
def test_each_optimizer_steps_as_without_shards(tmp_path: Path, zero: int) -> None:
    status, output = work(tmp_path, zero, "optimizers")
    assert status == 0, output


@needs_deepspeed
@pytest.mark.slow
def test_a_non_finite_step_is_skipped_on_all_ranks(tmp_path: Path) -> None:
    status, output = work(tmp_path, 3, "skip")
    assert status == 0, output


@needs_deepspeed
@pytest.mark.slow
def test_two_stages_offload_and_averages_work_together(tmp_path: Path) -> None:
    """An engine a stage, EMA, SWA, bf16 and the CPU's optimizer in one member."""
    first = {"schedule": {"epochs_per_cycle": 1}}
    second = {"optimizer": {"name": "sgd", "lr": 0.01}, "keep": "top_k", "top_k": 2, "swa": True}
    second |= {"schedule": {"epochs_per_cycle": 2}}
    changes: dict[str, Any] = {"train": {"batch_size": 8, "ema_decay": 0.9}}
    changes |= {"compute": {"offload": True, "precision": "bf16"}}
    process, paths = begin(tmp_path, 2, stages=[first, second], **changes)
    finish(process)
    done = read_json(paths.done)
    assert (done["precision"], done["ranks"], done["skipped_steps"]) == ("bf16", 2, 0)
    assert done["snapshots"] == ["stage1_swa.safetensors"]
    state, _ = checkpoint.load_snapshot(paths.snapshots / done["snapshots"][0])
    assert {tensor.dtype for tensor in state.values()} == {torch.float32, torch.int64}


def work(folder: Path, zero: int, what: str) -> tuple[int, str]:
    """Exit status and output of the worker's ranks, which assert; two micro-batches a step."""
    tree = zero_tree(zero, train={"batch_size": 8, "accumulation": 2})
    config, run = parse_config(tree, "test"), Run(folder / "run")
    run.folder.mkdir(parents=True)
    prepare(config, run)
    (folder / "tiny.yaml").write_text(yaml.safe_dump(tree))
    script = ROOT / "tests" / "training" / "zero_worker.py"
    process = start(script, launch_file(config.compute), what, str(folder))
    output = process.communicate(timeout=600)[0]
    return process.returncode, output


@needs_deepspeed
@pytest.mark.slow
@pytest.mark.parametrize("zero", [2, 3])
def test_an_encoder_that_never_learns_stays_and_lets_go(tmp_path: Path, zero: int) -> None:
    """Each stage has an engine of its own: what learns may change with it."""
    file = write_weights(tmp_path / "encoder.safetensors")
    first, *_ = frozen_tree(file, optimizer={"name": "adamw", "lr": 1e-3})["stages"]
    found = {}
    for name, last in (("always", "always"), ("then_all", 0)):
        stages = [first, {**first, "freeze_encoder": last}]
        changes = {**frozen_tree(file), "stages": stages}
        process, paths = begin(tmp_path / name, zero, **changes)
        finish(process)
        state = checkpoint.load_snapshot(max(paths.snapshots.glob("*.safetensors")))[0]
        found[name] = changed(file, state)
        assert losses(paths)[-1] < losses(paths)[0]
    assert found["always"] == [] and found["then_all"]
