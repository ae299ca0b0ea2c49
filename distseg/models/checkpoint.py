"""Weights and training state on disk: safetensors and JSON, nothing pickled, never half-written.

A snapshot is one `.safetensors` file whose metadata hold a JSON record that can rebuild the
model (a readable copy lies beside it). A state is a folder: `state.json` names the tensor file
that belongs to it, and is renamed into place last, so that it always points at a whole file.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from distseg.records.errors import Damaged, UserError, shown
from distseg.records.files import atomic_write, parsing, sync_folder, whole_file, write_json

StateDict = dict[str, Tensor]
DIGEST = "sha256"  # where the metadata of a file, or state.json, keep the hash of the rest


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
    advice = "remove it, and `distseg run` trains the member again"
    with _open_tensors(path, advice) as file, parsing(path, advice):
        metadata = file.metadata() or {}
        record = json.loads(metadata["record"])
        if not isinstance(record, dict):
            raise Damaged(path, "its record is no mapping", advice)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    _check_digest(path, tensors, metadata, advice)
    if bad := [n for n, t in tensors.items() if not torch.isfinite(t).all()]:
        raise Damaged(path, f"the weights {bad[0]} are not finite", advice)
    return tensors, record


@contextlib.contextmanager
def _open_tensors(path: Path, advice: str) -> Iterator[Any]:
    """An open safetensors file. UserError: it is not there, may not be read or is damaged."""
    try:
        with path.open("rb"):  # safetensors says "No such file" whatever is wrong
            pass
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        file = safe_open(str(path), framework="pt")
    except (OSError, SafetensorError, ValueError) as error:
        raise Damaged(path, " ".join(str(error).split()), advice) from None
    with file:
        yield file


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 of what a file holds: its metadata, and the name, type, shape and bytes of each
    tensor, in the order of the names."""
    digest = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        if tensor.numel():
            digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _check_digest(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], advice: str
) -> None:
    """Damaged: the file holds something else than what was written. Files without a digest come
    from a version that wrote none."""
    rest = {key: value for key, value in metadata.items() if key != DIGEST}
    if DIGEST in metadata and metadata[DIGEST] != _digest(tensors, rest):
        raise Damaged(path, "its checksum says that other bytes were written", advice)


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
    number = _next_number(folder)
    tensors: StateDict = {}
    structure = _encode(tree, tensors)
    name = f"tensors_{number}.safetensors"
    _write_tensors(folder / name, tensors)
    state = {"number": number, "tensors": name, "record": record, "tree": structure}
    atomic_write(current, json.dumps({**state, DIGEST: _text_digest(state)}))
    sync_folder(folder)
    for pattern in ("*tensors_*", "*shard_*", ".state.json.*.tmp"):
        for stale in folder.glob(pattern):
            if stale.name not in (name, *shards):  # the previous state, or what a kill left behind
                stale.unlink(missing_ok=True)


def _next_number(folder: Path) -> int:
    """One more than that of any file of tensors here: no state's file is written over."""
    names = (path.stem.removeprefix("tensors_") for path in folder.glob("tensors_*.safetensors"))
    return max((int(name) for name in names if name.isdigit()), default=-1) + 1


def _text_digest(state: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()


def has_state(folder: Path) -> bool:
    """Whether load_state() will find one (the folder alone says nothing)."""
    return (folder / "state.json").is_file()


def load_state(folder: Path) -> tuple[Any, dict[str, Any]] | None:
    """(tree, record) as saved, or None when there is none. Tensors are in CPU memory: each
    rank's load_state_dict() moves them to its own device. Damaged: it is not what was saved."""
    if not has_state(folder):
        return None
    path, advice = folder / "state.json", _state_advice(folder)
    with parsing(path, advice):
        state = json.loads(path.read_bytes())
        saved = state.pop(DIGEST, None)
        if saved not in (None, _text_digest(state)):
            raise Damaged(path, "its checksum says that other bytes were written", advice)
        name = str(state["tensors"])
        if Path(name).name != name:
            raise Damaged(path, f"its tensors {shown(name)} lie elsewhere", advice)
        return _read_tree(folder / name, state["tree"], advice), state["record"]


def _state_advice(folder: Path) -> str:
    return f"remove the folder {folder}, and the member starts anew"


def _read_tree(path: Path, structure: Any, advice: str) -> Any:
    """What `_encode` made `structure` of; None: it lies in the file's own metadata."""
    with _open_tensors(path, advice) as file, parsing(path, advice):
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        _check_digest(path, tensors, metadata, advice)
        return _decode(json.loads(metadata["tree"]) if structure is None else structure, tensors)


def save_shard(path: Path, tree: Any) -> None:
    """Write one rank's share of a state, before save_state() writes the state that names it."""
    tensors: StateDict = {}
    structure = _encode(tree, tensors)
    _write_tensors(path, tensors, {"tree": json.dumps(structure)})


def load_shard(path: Path) -> Any:
    """Read the tree that save_shard() has written; its tensors are in CPU memory. Damaged: it is
    not what was saved."""
    return _read_tree(path, None, _state_advice(path.parent))


def _write_tensors(path: Path, tensors: StateDict, metadata: dict[str, str] | None = None) -> None:
    """Write contiguous CPU copies where needed, and their digest, flush to disk, rename into
    place."""
    ready: StateDict = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().to("cpu").contiguous()
        storage = plain.untyped_storage()
        if storage.data_ptr() in storages or storage.nbytes() != plain.nbytes:
            plain = plain.clone()  # tied weights and views: safetensors takes neither
        storages.add(plain.untyped_storage().data_ptr())
        ready[name] = plain
    signed = {**(metadata or {}), DIGEST: _digest(ready, metadata or {})}
    with whole_file(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # by the umask; safetensors' own file is its owner's alone
        try:
            save_file(ready, str(temporary), signed)
        except SafetensorError as error:  # its form of an OSError, without a number
            raise OSError(errno.EIO, " ".join(str(error).split()), str(path)) from None
        with temporary.open("rb") as file:
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())


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


def _decode(node: Any, tensors: StateDict) -> Any:
    """The tree that _encode() was given."""
    if isinstance(node, list):
        return [_decode(item, tensors) for item in node]
    if not isinstance(node, dict):
        return node
    if "~tensor" in node:
        tensor = tensors[node["~tensor"]]
        if "stride" not in node:
            return tensor
        strided = torch.empty_strided(tensor.shape, node["stride"], dtype=tensor.dtype)
        return strided.copy_(tensor)
    if "~float" in node:
        return float(node["~float"])
    if "~dtype" in node:
        dtype = getattr(torch, node["~dtype"])
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"{node['~dtype']} is no dtype")
        return dtype
    if "~tuple" in node:
        return tuple(_decode(item, tensors) for item in node["~tuple"])
    if "~dict" in node:
        return {_decode(key, tensors): _decode(value, tensors) for key, value in node["~dict"]}
    return {key: _decode(value, tensors) for key, value in node.items()}
