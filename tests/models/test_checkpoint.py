"""distseg.models.checkpoint: bit-exact trees, snapshots, and what a kill leaves."""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distseg.models import checkpoint
from distseg.models.checkpoint import (
    average_states,
    clean_state_dict,
    has_state,
    load_snapshot,
    load_state,
    save_snapshot,
    save_state,
)
from distseg.records.errors import UserError


def identical(a: Any, b: Any) -> bool:
    """Same types, values, dtypes, strides; tensors to the bit (NaN included)."""
    if isinstance(a, Tensor):
        return (
            isinstance(b, Tensor)
            and (a.dtype, a.shape, a.stride()) == (b.dtype, b.shape, b.stride())
            and torch.equal(
                a.contiguous().view(-1).view(torch.uint8), b.contiguous().view(-1).view(torch.uint8)
            )
        )
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(identical(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(identical, a, b))
    return type(a) is type(b) and (a == b or (a != a and b != b))


def test_a_tree_comes_back_bit_for_bit(tmp_path: Path) -> None:
    shared = torch.arange(6.0)
    tree = {
        "numbers": [0, -(2**70), 0.1, math.inf, -math.inf, math.nan, True, None, "text"],
        7: {1.5: "float key", True: "bool key", "~tensor": "no marker", (1, 2): "tuple key"},
        "betas": (0.9, 0.999),
        "dtype": torch.bfloat16,
        "empty": [{}, [], ()],
        "dtypes": [
            torch.tensor([1.5, math.nan]).to(t)
            for t in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
        ],
        "integers": [
            torch.tensor(2**62),
            torch.tensor([True]),
            torch.zeros(0, 3, dtype=torch.int8),
        ],
        "step": torch.tensor(3.0),
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "one_by_one": torch.randn(4, 3, 1, 1).to(memory_format=torch.channels_last),
        "transposed": torch.randn(3, 4).T,
        "views": [shared, shared, shared[2:4]],
    }
    save_state(tmp_path / "state", tree, {"epoch": 3, "list": [1]})
    loaded = load_state(tmp_path / "state")
    assert loaded is not None and loaded[1] == {"epoch": 3, "list": [1]}
    assert identical(loaded[0], tree)


def test_a_state_holds_no_objects_and_a_folder_may_hold_no_state(tmp_path: Path) -> None:
    assert load_state(tmp_path) is None and load_state(tmp_path / "none") is None
    with pytest.raises(TypeError, match="Path"):
        save_state(tmp_path, {"path": tmp_path}, {})
    assert not has_state(tmp_path)


def numbered(number: int) -> dict[str, Any]:
    return {str(i): torch.full((64, 64), float(number)) for i in range(4)} | {"number": number}


def whole(folder: Path) -> int:
    """The number of the state in `folder`, which must be whole."""
    loaded = load_state(folder)
    assert loaded is not None
    tree, record = loaded
    assert identical(tree, numbered(record["number"]))
    return record["number"]


def in_child(work: Any) -> int:
    """Fork, run `work()` in the child; its process id."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return pid


def test_a_kill_at_any_file_operation_leaves_a_whole_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child dies just before its k-th sync, rename, removal or write, for every k."""
    torch.set_num_threads(1)
    seen = []
    for k in itertools.count():
        folder = tmp_path / str(k)
        save_state(folder, numbered(1), {"number": 1})

        def work(folder: Path = folder, k: int = k) -> None:
            calls = itertools.count()

            def mortal(function: Any) -> Any:
                def call(*args: Any, **kwargs: Any) -> Any:
                    if next(calls) == k:
                        os._exit(9)
                    return function(*args, **kwargs)

                return call

            os.fsync = mortal(os.fsync)
            Path.replace = mortal(Path.replace)  # type: ignore[method-assign]
            Path.unlink = mortal(Path.unlink)  # type: ignore[method-assign]
            checkpoint.save_file = mortal(checkpoint.save_file)
            save_state(folder, numbered(2), {"number": 2})

        _, status = os.waitpid(in_child(work), 0)
        seen.append(whole(folder))
        save_state(folder, numbered(3), {"number": 3})  # and the next save cleans up
        assert whole(folder) == 3 and len(list(folder.iterdir())) == 2
        if os.waitstatus_to_exitcode(status) == 0:
            break
    assert seen == sorted(seen) and set(seen) == {1, 2} and len(seen) > 5


def test_kill_9_at_random_moments_leaves_a_whole_state(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    save_state(tmp_path, numbered(0), {"number": 0})
    number = 0

    def work() -> None:
        for following in itertools.count(number + 1):
            save_state(tmp_path, numbered(following), {"number": following})

    for _ in range(12):
        pid = in_child(work)
        time.sleep(random.uniform(0.02, 0.3))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert whole(tmp_path) >= number
        number = whole(tmp_path)
    assert number > 0


def test_a_snapshot_holds_its_record_and_its_weights(tmp_path: Path) -> None:
    path = tmp_path / "snapshots" / "cycle0.safetensors"
    weights = clean_state_dict(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)))
    weights["tied"] = weights["0.bias"]
    record = {"member": {"encoder": "résnet18"}, "channels": 1, "score": 0.5}
    save_snapshot(path, weights, record)
    loaded, found = load_snapshot(path)
    assert found == record and json.loads(path.with_suffix(".json").read_text()) == record
    assert identical(dict(sorted(loaded.items())), dict(sorted(weights.items())))
    assert sorted(p.name for p in path.parent.iterdir()) == ["cycle0.json", "cycle0.safetensors"]
    path.write_bytes(path.read_bytes()[:-8])
    for broken in (path, tmp_path / "none.safetensors"):
        with pytest.raises(UserError, match=broken.name):
            load_snapshot(broken)


def test_names_are_those_of_the_bare_model_and_values_are_copies() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    names = list(model.state_dict())
    model.compile()  # in place, as training does it
    kept = clean_state_dict(model)
    assert list(kept) == names
    before = kept["0.weight"].clone()
    with torch.no_grad():
        next(model.parameters()).add_(1)
    assert torch.equal(kept["0.weight"], before)


def test_average_is_the_mean_and_counters_are_the_last_ones() -> None:
    states = [
        {"w": torch.tensor([v], dtype=torch.float16), "n": torch.tensor(i)}
        for i, v in enumerate((2048.0, 1.0, 3.0))
    ]
    averaged = average_states(states)
    assert averaged["w"].dtype == torch.float16 and averaged["w"].item() == 684.0
    assert averaged["n"].item() == 2
