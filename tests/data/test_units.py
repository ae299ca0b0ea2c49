"""Rows that belong together, and the part of a member's rows that it does not train on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from distseg.config.schema import Config
from distseg.data.prepare import open_cache, prepare
from distseg.data.units import check_inner_share, find_units, held_out, open_units
from distseg.records.errors import UserError
from distseg.records.files import read_json
from distseg.records.manifest import Manifest
from distseg.records.paths import Run
from tests.made_run import made_config

HEIGHT, WIDTH = 40, 56


def picture(seed: int) -> np.ndarray:
    """uint8 (HEIGHT, WIDTH): smooth, and unlike those of other seeds."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 7)).astype(np.float32)
    return np.clip(cv2.resize(small, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC), 0, 255)


def write_set(root: Path) -> None:
    """a00..a09 unlike each other; b0 a copy of a00, b1 darker than a01, b2 and b3 flat; by the
    table of groups a02 and a03 are one patient's, and b1 and a04."""
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    images = {f"a{i:02d}": picture(i) for i in range(10)}
    images |= {"b0": images["a00"], "b1": images["a01"] * 0.8}
    images |= {"b2": np.full((HEIGHT, WIDTH), 70.0), "b3": np.full((HEIGHT, WIDTH), 71.0)}
    group = {"a03": "a02", "b1": "p", "a04": "p"}
    lines = ["id,patient"]
    for name, pixels in images.items():
        Image.fromarray(pixels.astype(np.uint8)).save(root / "images" / f"{name}.png")
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[: 10 + len(lines), :20] = 255
        Image.fromarray(mask).save(root / "masks" / f"{name}.png")
        lines.append(f"{name},{group.get(name, name)}")
    (root / "groups.csv").write_text("\n".join(lines))


def test_copies_near_copies_and_groups_are_units(tmp_path: Path) -> None:
    write_set(tmp_path / "data")
    folds = {"kind": "group", "column": "patient", "groups": "groups.csv", "num": 3}
    data = {"format": "folder", "root": str(tmp_path / "data"), "folds": folds}
    size = {"height": 64, "width": 64, "channels": 1}
    config = made_config(tmp_path / "data", data=data, input=size)
    run = Run(tmp_path / "run")
    prepare(config, run)
    units = open_units(config, run, open_cache(config, run))
    together = {frozenset(n for n, u in units.items() if u == unit) for unit in units.values()}
    assert {unit for unit in together if len(unit) > 1} == {
        frozenset(("a00", "b0")),
        frozenset(("a02", "a03")),
        frozenset(("a01", "b1", "a04")),  # through b1
    }
    assert len(together) == 14 - 4 and all(min(t) in t for t in together)
    assert all(units[unit] == unit for unit in units.values())

    written = run.units.read_bytes()
    assert open_units(config, run, open_cache(config, run)) == units
    assert run.units.read_bytes() == written
    plain = made_config(tmp_path / "data")  # without the table only the pixels join
    ids = [sample.id for sample in Manifest.read(run.truth)]
    found = find_units(plain, ids, open_cache(config, run))
    assert sorted(Counter(found.values()).values())[-3:] == [1, 2, 2]

    lines = run.units.read_text().splitlines()
    run.units.write_text("\n".join(lines[:-1]))  # of other rows
    assert open_units(config, run, open_cache(config, run)) == units
    assert read_json(run.data / "statistics.json")["train"] == 14


def test_whole_units_are_held_out() -> None:
    units = [f"u{row // 3}" if row < 30 else f"v{row}" for row in range(100)]
    held = held_out(units, 0.1, 7, "a", 0)
    rows = sum(unit in held for unit in units)
    assert 8 <= rows <= 10 and held == held_out(units, 0.1, 7, "a", 0)
    others = [held_out(units, 0.1, 7, "a", fold) for fold in range(1, 6)]
    assert all(other != held for other in others)
    assert len(held.union(*others)) > 2 * len(held), "each fold's member leaves out other rows"


def test_a_share_that_no_unit_fits_into() -> None:
    assert len(held_out(["a", "b", "c"], 0.1, 0)) == 1  # one row at least
    with pytest.raises(UserError, match=r"inner_share: 0\.1: the 9 train rows are 1 unit of"):
        held_out(["a"] * 9, 0.1, 0)
    with pytest.raises(UserError, match=r"the 8 train rows are 2 units of images"):
        held_out(["a"] * 4 + ["b"] * 4, 0.25, 0)


def test_pair_teachers_are_watched_too(tmp_path: Path) -> None:
    """Units of four rows: one fits into a share of the 80 rows that leave a fold out, none into
    that of the 60 that leave two out."""
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    lines = ["id,patient"]
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[:10, :20] = 255
    for number in range(100):
        pixels = picture(number).astype(np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"a{number:02d}.png")
        Image.fromarray(mask).save(root / "masks" / f"a{number:02d}.png")
        lines.append(f"a{number:02d},p{number // 4}")
    (root / "groups.csv").write_text("\n".join(lines))
    folds = {"kind": "group", "column": "patient", "groups": "groups.csv", "num": 5}
    data = {"format": "folder", "root": str(root), "folds": folds}
    size = {"height": 64, "width": 64, "channels": 1}

    def of(share: float, **more: Any) -> Config:
        rounds = [{"kind": "supervised"}, {"kind": "self_distill", **more}]
        train = {"inner_share": share}
        return made_config(root, data=data, input=size, rounds=rounds, train=train)

    run = Run(tmp_path / "run")
    prepare(of(0.06), run)
    cache = open_cache(of(0.06), run)
    said = r"inner_share: 0\.06: the 60 train rows are .* \(rounds\.1: pair teachers without the "
    with pytest.raises(UserError, match=said + r"folds 0 and 1\)"):
        check_inner_share(of(0.06), run, cache)
    check_inner_share(of(0.07), run, cache)
    check_inner_share(of(0.06, teacher="oof"), run, cache)  # who leaves out one fold
    with pytest.raises(UserError, match=r"0\.04: the 80 train rows are .* \(members of fold 0\)"):
        check_inner_share(of(0.04, teacher="oof"), run, cache)
