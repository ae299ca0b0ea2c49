"""The package as its files: its rooms from the roof to the ground, and what a file imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.tiny import ROOT

PACKAGE = ROOT / "distseg"

# From the roof to the ground. A room imports rooms of lower lines only; rooms of one line meet on
# disk, through a Manifest, snapshots or Predictions.
HOUSE = """
__main__
cli
outcomes
arguments api
doctor
tune
init
run
rounds report export training ensemble submission
inference
jobs
data
models
distributed
config
records
functional
distseg
"""


def modules() -> dict[str, Path]:
    """Every file of the package by its dotted name; a package's __init__ by the package's."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def room(module: str) -> str:
    """`data` for distseg.data.fit, `distseg` for the package itself."""
    return [*module.split("."), ""][1] or "distseg"


def imports(path: Path, *, at_import: bool = False) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of what a file imports; at_import: only what importing it imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in _nodes(tree, at_import):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}, line {node.lineno}: imports here are absolute"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def _nodes(node: ast.AST, at_import: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        typing_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        if at_import and (typing_only or isinstance(child, ast.FunctionDef)):
            continue
        yield child
        yield from _nodes(child, at_import)
