"""Weights and training state on disk: safetensors and JSON, nothing pickled, never half-written.

A snapshot is one `.safetensors` file whose metadata hold a JSON record that can rebuild the
model (a readable copy lies beside it). A state is a folder: `state.json` names the tensor file
that belongs to it, and is renamed into place last, so that it always points at a whole file.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from distseg.records.errors import UserError
from distseg.records.files import (
    atomic_write,
    read_json,
    temporary_name,
    write_json,
)

StateDict = dict[str, Tensor]


def clean_state_dict(model: nn.Module) -> StateDict:
    """The weights as copies in CPU memory: a later update of the model does not reach them.

    `model` is a bare module, not one inside DistributedDataParallel. One that is compiled in place
    (`model.compile()`, as training does it) keeps the names of its weights.
    """
    return {name: t.detach().to("cpu", copy=True) for name, t in model.state_dict().items()}


def save_snapshot(path: Path, state_dict: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """Write weights and their record to `path` (.safetensors) and the record beside it (.json)."""
    assert path.suffix == ".safetensors", path
    text = json.dumps(record)
    _write_tensors(path, dict(state_dict), {"record": text})
    write_json(path.with_suffix(".json"), record)


def load_snapshot(path: Path) -> tuple[StateDict, dict[str, Any]]:
    """(weights in CPU memory, record). UserError when the file is missing or damaged."""
    try:
        with safe_open(str(path), framework="pt") as file:
            record = json.loads((file.metadata() or {})["record"])
            return {name: file.get_tensor(name) for name in file.keys()}, record  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: not a snapshot that can be read: {error}") from None


def average_states(states: Sequence[Mapping[str, Tensor]]) -> StateDict:
    """The mean of several models' weights (SWA, Izmailov et al. 2018).

    Returns tensors of the last state's dtypes. Integer entries, as BatchNorm's counters, are the
    last state's. The sum is taken in float64 and divided once. torch.optim.swa_utils.AveragedModel
    keeps a running mean in the dtype of the weights instead, whose last bits depend on the order
    of the snapshots; all of them lie on disk here, so nothing forces a running mean.
    """
    assert states, "nothing to average"
    last = states[-1]
    assert all(state.keys() == last.keys() for state in states), "weights of different models"
    averaged: StateDict = {}
    for name, tensor in last.items():
        if tensor.is_floating_point():
            total = torch.zeros_like(tensor, dtype=torch.float64)
            for state in states:
                total += state[name]
            averaged[name] = (total / len(states)).to(tensor.dtype)
        else:
            averaged[name] = tensor.clone()
    return averaged


def save_state(
    folder: Path, tree: Any, record: Mapping[str, Any], shards: Sequence[str] = ()
) -> None:
    """Replace the state in `folder` by `tree`: nested dict, list and tuple of tensors, numbers,
    str, bool, None and dtypes, as state_dict() of optimizers and models; keys may be numbers.

    Values, dtypes and strides come back bit for bit (fused optimizers read raw memory: strides
    must be those of the parameters). `record` is a JSON object; `shards` are files in the folder
    that belong to the state (see save_shard). Killed at any moment, the folder holds the previous
    state or this one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    current = folder / "state.json"
    number = read_json(current)["number"] + 1 if current.is_file() else 0
    tensors: StateDict = {}
    structure = _encode(tree, tensors)
    name = f"tensors_{number}.safetensors"
    _write_tensors(folder / name, tensors)
    state = {"number": number, "tensors": name, "record": record, "tree": structure}
    atomic_write(current, json.dumps(state))
    _sync_folder(folder)
    for pattern in ("*tensors_*", "*shard_*", ".state.json.*.tmp"):
        for stale in folder.glob(pattern):
            if stale.name not in (name, *shards):  # the previous state, or what a kill left behind
                stale.unlink(missing_ok=True)


def has_state(folder: Path) -> bool:
    """Whether load_state() will find one (the folder alone says nothing)."""
    return (folder / "state.json").is_file()


def load_state(folder: Path) -> tuple[Any, dict[str, Any]] | None:
    """(tree, record) as saved, or None when there is none. Tensors are in CPU memory: each
    rank's load_state_dict() moves them to its own device."""
    if not has_state(folder):
        return None
    state = read_json(folder / "state.json")
    with safe_open(str(folder / state["tensors"]), framework="pt") as file:
        tree = _decode(state["tree"], file)
    return tree, state["record"]


def save_shard(path: Path, tree: Any) -> None:
    """Write one rank's share of a state, before save_state() writes the state that names it."""
    tensors: StateDict = {}
    structure = _encode(tree, tensors)
    _write_tensors(path, tensors, {"tree": json.dumps(structure)})


def load_shard(path: Path) -> Any:
    """Read the tree that save_shard() has written; its tensors are in CPU memory."""
    with safe_open(str(path), framework="pt") as file:
        return _decode(json.loads(file.metadata()["tree"]), file)


def _write_tensors(path: Path, tensors: StateDict, metadata: dict[str, str] | None = None) -> None:
    """Write contiguous CPU copies where needed, flush to disk, rename into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ready: StateDict = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().to("cpu").contiguous()
        storage = plain.untyped_storage()
        if storage.data_ptr() in storages or storage.nbytes() != plain.nbytes:
            plain = plain.clone()  # tied weights and views: safetensors takes neither
        storages.add(plain.untyped_storage().data_ptr())
        ready[name] = plain
    temporary = temporary_name(path)
    save_file(ready, str(temporary), metadata)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


def _sync_folder(folder: Path) -> None:
    """Flush the renames in `folder` to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# What JSON has no form for is an object with one of these keys: ~tensor (name, with `stride`
# where it is not the contiguous one), ~tuple, ~dict (pairs; keys that are no strings), ~float
# (what is not finite), ~dtype.


def _encode(node: Any, tensors: StateDict) -> Any:
    """JSON form of `node`; its tensors go to `tensors`."""
    if isinstance(node, Tensor):
        name = str(len(tensors))
        tensors[name] = node
        stride = torch.empty_like(node, device="meta").stride()
        plain = torch.empty(node.shape, device="meta").stride()
        return {"~tensor": name} | ({} if stride == plain else {"stride": list(stride)})
    if node is None or isinstance(node, bool | int | str):
        return node
    if isinstance(node, float):
        return node if math.isfinite(node) else {"~float": repr(node)}
    if isinstance(node, torch.dtype):
        return {"~dtype": str(node).removeprefix("torch.")}
    if isinstance(node, list):
        return [_encode(item, tensors) for item in node]
    if isinstance(node, tuple):
        return {"~tuple": [_encode(item, tensors) for item in node]}
    if isinstance(node, Mapping):
        if all(isinstance(key, str) and not key.startswith("~") for key in node):
            return {key: _encode(value, tensors) for key, value in node.items()}
        pairs = [[_encode(key, tensors), _encode(value, tensors)] for key, value in node.items()]
        return {"~dict": pairs}
    raise TypeError(f"a state cannot hold {type(node).__name__}")


def _decode(node: Any, file: Any) -> Any:
    """The tree that _encode() was given; `file` is the open safetensors file."""
    if isinstance(node, list):
        return [_decode(item, file) for item in node]
    if not isinstance(node, dict):
        return node
    if "~tensor" in node:
        tensor = file.get_tensor(node["~tensor"])
        if "stride" not in node:
            return tensor
        strided = torch.empty_strided(tensor.shape, node["stride"], dtype=tensor.dtype)
        return strided.copy_(tensor)
    if "~float" in node:
        return float(node["~float"])
    if "~dtype" in node:
        return getattr(torch, node["~dtype"])
    if "~tuple" in node:
        return tuple(_decode(item, file) for item in node["~tuple"])
    if "~dict" in node:
        return {_decode(key, file): _decode(value, file) for key, value in node["~dict"]}
    return {key: _decode(value, file) for key, value in node.items()}
