"""The house rule: rooms in order, imports down only, no circle, and each package in its room."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

from tests.house import HOUSE, PACKAGE, imports, modules, room

LEVEL = {
    room: level for level, line in enumerate(reversed(HOUSE.split("\n"))) for room in line.split()
}

# Where a package, or a standard module that starts processes, may be imported: path prefixes.
PACKAGES = {
    "accelerate": ("distributed", "training/", "inference/"),
    "deepspeed": ("distributed", "training/"),
    "albumentations": ("data/augment",),
    "timm": ("models/",),
    "segmentation_models_pytorch": ("models/",),
    "ray": ("jobs/ray", "tune/", "doctor/ray"),
    "optuna": ("tune/",),
    "matplotlib": ("tune/",),
    "pandas": ("run/finished",),
    "subprocess": ("jobs/", "doctor/"),
    "psutil": ("jobs/", "doctor/"),
    "rich": ("run/view",),
    "pydantic": ("config/",),
    "yaml": ("config/",),
    "jinja2": ("report/", "export/"),
    "pycocotools": ("data/shapes",),
    "onnx": ("export/",),
    "onnxruntime": ("export/",),
    "safetensors": ("models/",),
    "pickle": (),
    "joblib": (),
}
# Rooms that the driver, `--help` and `config` read: without torch and its kin at module level.
LIGHT = {
    "__main__",
    "cli",
    "outcomes",
    "arguments",
    "api",
    "doctor",
    "tune",
    "run",
    "jobs",
    "config",
    "records",
    "distseg",
}
HEAVY = {"torch", "torchvision", "timm", "accelerate", "albumentations"}
# Names that say nothing about what lies in a file.
EMPTY_NAMES = {"utils", "util", "core", "common", "helpers", "base", "misc"}


def graph() -> dict[str, dict[str, int]]:
    """By file: the files of distseg that it imports, anywhere in it, with the line.

    To import a file is to import the __init__ of each folder above it, too.
    """
    known = modules()
    edges: dict[str, dict[str, int]] = {}
    for module, path in known.items():
        edges[module] = {}
        for line, name in imports(path):
            target = name if name in known else name.rpartition(".")[0]
            while target in known:
                if target != module:
                    edges[module].setdefault(target, line)
                target = target.rpartition(".")[0]
    return edges


def circle(edges: dict[str, dict[str, int]]) -> list[str]:
    """Files that import each other in a circle, in order; [] where there is none."""
    try:
        graphlib.TopologicalSorter(edges).prepare()
    except graphlib.CycleError as error:
        return [str(module) for module in error.args[1]]
    return []


def test_the_rule() -> None:
    known, problems = modules(), []
    for module, path in known.items():
        relative = path.relative_to(PACKAGE).with_suffix("").as_posix()
        if room(module) not in LEVEL:
            problems.append(f"{relative}: a room that HOUSE does not list")
        if EMPTY_NAMES & set(relative.split("/")):
            problems.append(f"{relative}: a name that says nothing")
        for line, name in imports(path):
            top = name.split(".")[0]
            if not any(relative.startswith(place) for place in PACKAGES.get(top, ("",))):
                problems.append(f"{relative}, line {line}: {top} belongs to {PACKAGES[top]}")
        for line, name in imports(path, at_import=True):
            if room(module) in LIGHT and name.split(".")[0] in HEAVY:
                problems.append(f"{relative}, line {line}: {name} at module level")
    for module, targets in graph().items():
        for target, line in targets.items():
            own, other = room(module), room(target)
            if own != other and LEVEL[other] >= LEVEL[own]:
                problems.append(f"{module}, line {line}: {own} does not lie above {other}")
    assert not problems, "\n".join(problems)
    assert {room(module) for module in known} == set(LEVEL), "HOUSE lists a room that is gone"


def test_no_circle_between_files() -> None:
    assert circle(graph()) == []
    assert circle({"a": {"b": 1}, "b": {"c": 1}, "c": {"a": 1}}) != []


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """(name, lines) of every function of a file, its docstring and comments counted."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - node.lineno + 1


def test_sizes_to_feel_at_home_in() -> None:
    for module, path in modules().items():
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 350, path
        for name, lines in functions(path):
            loop = (module, name) == ("distseg.training.train", "train")
            assert lines <= (110 if loop else 60), f"{path}: {name} has {lines} lines"
