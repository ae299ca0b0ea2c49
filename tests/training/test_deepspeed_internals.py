"""What DeepSpeed's undocumented names must do; a new release that changes them fails here."""

from __future__ import annotations

import importlib
import inspect
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("deepspeed", reason="needs the extra `deepspeed`")

from distseg.training.deepspeed_internals import shards_in_groups, without_shared_memory_op


def test_the_shared_memory_op_is_never_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    from deepspeed import ops
    from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder

    def built(_: object) -> None:
        raise AssertionError("DeepSpeed compiles its shared-memory op")

    backend = importlib.import_module("deepspeed.comm.torch")
    assert ShareMemCommBuilder.NAME in ops.__compatible_ops__, "the table has another name for it"
    monkeypatch.setattr(ShareMemCommBuilder, "load", built)
    monkeypatch.setitem(ops.__compatible_ops__, ShareMemCommBuilder.NAME, True)
    with pytest.raises(AssertionError, match="compiles"):
        backend.build_shm_op()
    without_shared_memory_op()
    assert backend.build_shm_op() is None


def test_the_shards_are_in_the_groups_within_the_block_alone() -> None:
    """ZeRO-3's own methods, on two groups of two shards and one."""
    from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3 as Stage3

    shards = [torch.full((3,), float(number)) for number in range(3)]
    groups: list[dict[str, list[torch.Tensor]]] = [{"params": []}, {"params": []}]
    sharded = SimpleNamespace(
        optimizer=SimpleNamespace(param_groups=groups),
        fp16_groups=[[], [], []],
        sub_group_to_group_id={0: 0, 1: 1, 2: 0},
        fp32_partitioned_groups_flat=shards,
    )
    for name in ("_set_fp32_optimizer_param_groups", "_clear_fp32_optimizer_param_groups"):
        method = getattr(Stage3, name)
        assert list(inspect.signature(method).parameters) == ["self"]
        setattr(sharded, name, method.__get__(sharded))
    with shards_in_groups(sharded):
        found = [[int(shard[0]) for shard in group["params"]] for group in groups]
    assert found == [[0, 2], [1]]
    assert [group["params"] for group in groups] == [[], []]
