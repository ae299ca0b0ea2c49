"""The depth as a last channel: through inspection, cache and prediction."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest

from distseg.config.load import parse_config
from distseg.config.schema import Config
from distseg.data.check import mistakes
from distseg.data.dataset import ImageFiles
from distseg.data.fit import Fit
from distseg.data.image_file import BadFile
from distseg.data.prepare import open_cache, prepare
from distseg.data.read_input import Reading, read_input, reading_of
from distseg.records.errors import UserError
from distseg.records.manifest import Manifest
from distseg.records.paths import Run
from tests.made_run import write_data


def config_of(root: Path, table: str, **size: int) -> Config:
    (root / "depths.csv").write_text(table)
    tree = {
        "name": "t",
        "data": {"format": "folder", "root": str(root), "depths": "depths.csv",
                 "folds": {"num": 2}},
        "input": {"height": 32, "width": 32, "channels": 2, **size},
        "members": {"a": {"encoder": "resnet18"}},
    }  # fmt: skip
    return parse_config(tree, "t")


def test_the_last_channel_is_the_depth_everywhere(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_data(root, num=6)
    names = [*(f"images{i:03d}" for i in range(5)), *(f"test_images{i:03d}" for i in range(4))]
    table = "id,z\n" + "".join(f"{name},{100 + i}\n" for i, name in enumerate(names))
    config, run = config_of(root, table), Run(tmp_path / "run")
    prepare(config, run)
    assert "images005" in (run.data / "quarantine.csv").read_text()  # the table does not name it
    image = open_cache(config, run).image("images002")
    assert image.shape[2] == 2 and (image[..., 1] == round(255 * 2 / 8)).all()
    tests = list(Manifest.read(run.data / "test.csv"))
    sample = ImageFiles(tests, reading_of(config), Fit(config.input))[3]
    assert not sample["error"] and (sample["image"][1] == 255).all()
    with pytest.raises(BadFile, match="images005"):
        read_input(root / "images" / "images005.png", reading_of(config))
    plain = read_input(root / "images" / "images005.png", Reading(1))
    assert plain.shape[2] == 1 and plain.dtype == np.uint8


def test_a_table_fits_files_from_a_mac(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_data(root, num=4)
    mac, table = (
        unicodedata.normalize("NFD", "b\u00e4ume"),
        unicodedata.normalize("NFC", "b\u00e4ume"),
    )
    for path in [*root.glob("*/*.png")]:
        path.rename(path.with_name(f"{mac}_{path.name}"))
    lines = [f"{table}_images{i:03d},{100 + i}" for i in range(4)]
    config, run = config_of(root, "\n".join(["id,z", *lines])), Run(tmp_path / "run")
    assert not [line for line in mistakes(config) if "depths" in line]
    prepare(config, run)
    image = open_cache(config, run).image(f"{mac}_images003")
    assert (image[..., 1] == 255).all()


@pytest.mark.parametrize(
    ("table", "size", "said"),
    [
        ("id,z\nimages000,x\n", {}, "line 2: z: 'x' is no number"),
        ("id,depth\n", {}, "'z' is missing"),
        ("id,z\n", {}, "no depth"),
        ("id,z\nimages000,1\n", {"channels": 1}, "input.channels of 2"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, table: str, size: dict[str, int], said: str) -> None:
    write_data(tmp_path / "data", num=4)
    with pytest.raises(UserError, match=said):
        prepare(config_of(tmp_path / "data", table, **size), Run(tmp_path / "run"))
