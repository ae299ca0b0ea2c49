"""docs/design.md names files that exist, and every room of the house."""

from __future__ import annotations

import re

from tests.house import HOUSE, modules, room
from tests.tiny import ROOT

TEXT = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")


def test_every_file_that_it_names_exists() -> None:
    named = set(re.findall(r"`((?:distseg|tests|docs|launch|configs)/[\w./-]+)[`:]", TEXT))
    assert len(named) > 40, "the map names the files that a life passes"
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_every_function_that_it_names_is_in_its_file() -> None:
    pairs = re.findall(r"`((?:distseg|tests)/[\w./-]+\.py): (\w+)`", TEXT)
    assert pairs
    for name, function in pairs:
        assert f"def {function}(" in (ROOT / name).read_text(encoding="utf-8"), (name, function)


def test_every_room_stands_in_its_table() -> None:
    rooms = {room(module) for module in modules()} - {"__main__", "distseg"}
    table = TEXT.partition("## The rooms")[2].partition("## The life")[0]
    found = set(re.findall(r"`distseg/(\w+)[./]", table))
    assert found == rooms and rooms < set(HOUSE.split())
