"""The wall between the rooms: imports go down only, and each package has its place."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "distseg"

RECORDS = {
    "",
    "config",
    "config_checks",
    "config_data",
    "config_file",
    "config_parts",
    "config_rounds",
    "config_training",
    "config_tune",
    "config_zero",
    "errors",
    "log",
    "manifest",
    "predictions",
    "runs",
}
# What stages share: the rooms below them, and the files that two stages need.
SHARED = {"data", "models", "optim", "checkpoint", "evaluate"}
SHARED |= {"member", "engine", "zero", "stage", "snapshots", "oof", "finished", "pictures"}
SHARED |= {"teaching", "trained"}
STAGES = {"train", "teach", "select", "predict", "ensemble", "joint", "rounds", "submit", "score"}
STAGES |= {"report", "find_lr"}
LEVELS = {
    **dict.fromkeys(["functional"], 0),
    **dict.fromkeys(RECORDS, 1),
    **dict.fromkeys(SHARED, 2),
    **dict.fromkeys(STAGES, 3),
    **dict.fromkeys(["orchestration"], 4),
    **dict.fromkeys(["arguments", "cli"], 5),
    **dict.fromkeys(["__main__"], 6),
}

# Where a package, or a standard module that starts processes, may be imported: path prefixes.
TRAINING = ("train", "teach", "predict", "evaluate", "member", "snapshots", "zero")
ALLOWED = {
    "accelerate": TRAINING,
    "deepspeed": TRAINING,
    "albumentations": ("data/augment",),
    "timm": ("models/",),
    "segmentation_models_pytorch": ("models/",),
    "ray": ("orchestration/cluster", "orchestration/search"),
    "optuna": ("orchestration/search",),
    "matplotlib": ("orchestration/sweep",),
    "subprocess": ("orchestration/",),
    "psutil": ("orchestration/",),
    "rich": ("orchestration/",),
    "pydantic": ("config",),
    "yaml": ("config",),
    "jinja2": ("report",),
    "safetensors": ("checkpoint", "models/"),
    "pickle": (),
    "joblib": (),
}
NO_TORCH = (*RECORDS, "cli", "__main__", "orchestration")


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    """config for config.py, data for data/fit.py, "" for __init__.py."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return "" if parts == ("__init__",) else parts[0]


def imports(path: Path, *, lazy: bool = True) -> Iterator[str]:
    """Dotted names that a module imports; without `lazy` only those of importing it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in _nodes(tree, lazy):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}, line {node.lineno}: imports here are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _nodes(node: ast.AST, lazy: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        typing_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        if not lazy and (typing_only or isinstance(child, ast.FunctionDef)):
            continue
        yield child
        yield from _nodes(child, lazy)


def room_of_import(name: str) -> str:
    """The room of `distseg.a.b`; __version__ and the like are the package's own."""
    first = name.split(".")[1] if "." in name else ""
    return first if first in LEVELS else ""


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    own = room(path)
    assert own in LEVELS, f"{path}: a new room: give it a level in this test"
    for name in imports(path):
        if name.split(".")[0] != "distseg":
            continue
        other = room_of_import(name)
        below = LEVELS[other] < LEVELS[own]
        beside = LEVELS[other] == LEVELS[own] and (own not in STAGES or other == own)
        # config checks the names of losses, metrics and views, which functional holds; within
        # functional, records and shared files a neighbor may be used.
        assert below or beside, f"{path}: {own or 'distseg'} may not import {name}"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_packages_stay_in_their_rooms(path: Path) -> None:
    relative = path.relative_to(PACKAGE).with_suffix("").as_posix()
    for name in imports(path):
        top = name.split(".")[0]
        if top in ALLOWED:
            where = [p for p in ALLOWED[top] if relative == p or relative.startswith(p)]
            assert where, f"{relative} may not import {top}; only {ALLOWED[top]} may"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_torch_at_module_level(path: Path) -> None:
    if room(path) not in NO_TORCH:
        return
    heavy = {"torch", "torchvision", "timm", "accelerate", "albumentations"}
    found = [name for name in imports(path, lazy=False) if name.split(".")[0] in heavy]
    assert not found, f"{path}: {found} at module level"


def test_every_level_is_used() -> None:
    """A room that is gone leaves this table too."""
    assert {room(path) for path in modules()} == set(LEVELS)
