"""docs/first-dataset.md, followed to the letter in an empty folder: its commands, in its order, and
what it says that comes of them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from distseg.config.load import load_config
from distseg.records.files import read_lines
from tests.init.made_sets import folder
from tests.tiny import ROOT

PAGE = ROOT / "docs/first-dataset.md"
# The page's budget is half an hour: the one thing that is not taken to the letter.
BUDGET = ("--budget 30m", "--budget 1m")


def blocks() -> list[list[str]]:
    """The lines of each code block that holds commands, in order; without `distseg` on a line of
    its own a block shows files, a config or an editor's line."""
    found: list[list[str]] = [[]]
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("    "):
            found[-1].append(line[4:])
        elif found[-1]:
            found.append([])
    return [block for block in found if any(re.match(r"(\$ )?distseg ", one) for one in block)]


def command_of(line: str) -> str:
    """A line of a block without its prompt, and what is said of it after two spaces or more."""
    assert re.match(r"(\$ )?distseg ", line), line
    return re.split(r"  +", line.removeprefix("$ "))[0].replace(*BUDGET)


class Shell:
    """A folder in which commands are run as a reader would, with a home of its own."""

    def __init__(self, here: Path) -> None:
        self.here, tools = here, here.parent / "bin"
        tools.mkdir(exist_ok=True)
        script = tools / "distseg"  # the environment's, from this source tree
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m distseg "$@"\n')
        script.chmod(0o755)
        self.env = {**os.environ, "HOME": str(here.parent), "PYTHONPATH": str(ROOT)}
        self.env["PATH"] = f"{tools}{os.pathsep}{os.environ['PATH']}"
        for name in ("DISTSEG_PACES", "XDG_CACHE_HOME"):
            self.env.pop(name, None)

    def __call__(self, command: str, status: int = 0) -> str:
        done = subprocess.run(
            command, shell=True, cwd=self.here, env=self.env, text=True, capture_output=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == status, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr


def as_three_values(mask: NDArray[np.bool_], number: int) -> NDArray:
    """0, and 128 or 255 by turns."""
    return (mask * (255 if number % 2 else 128)).astype(np.uint8)


def test_the_page_has_the_blocks_that_are_followed() -> None:
    lines = [command_of(line) for block in blocks() for line in block if "distseg: " not in line]
    verbs = [line.split()[1] for line in lines]
    assert verbs == [
        *("run", "init", "plan", "inspect", "run", "init", "init", "status", "predict", "score"),
    ]  # fmt: skip


@pytest.mark.slow
def test_followed_to_the_letter(tmp_path: Path) -> None:
    here = tmp_path / "empty"
    here.mkdir()
    shell = Shell(here)
    folder(here / "mydata", num=12, size=(48, 64), objects=(16, 2), tests=3)
    start, further, refused, answered, after = blocks()

    (line,) = start
    said = shell(command_of(line))
    assert "out-of-fold dice" in said
    run = here / "runs/mydata"
    assert (run / "init.yaml").is_file() and (run / "report.html").is_file()
    assert len(list((run / "test_masks").glob("*.png"))) == 3
    assert (tmp_path / ".cache/distseg/paces.json").is_file()

    def starts() -> int:
        return sum(one["event"] == "job_started" for one in read_lines(run / "ledger.jsonl"))

    before = starts()
    shell(command_of(line))  # the same line again: what is finished is not done twice
    assert starts() == before > 0

    init, plan, inspect, whole = map(command_of, further)
    shell(init)
    text = (here / "my.yaml").read_text()
    assert "# fit: " in text and "# distseg run my.yaml" in text
    planned = shell(plan)
    assert re.search(r"time: about \S+ \(\S+ to \S+\)", planned)
    assert "disk, when finished" in planned and "memory: about" in planned
    assert "12 train images" in shell(inspect)
    assert [path.name for path in (here / "runs").iterdir()] == ["mydata"]  # nothing is trained
    assert "out-of-fold dice" in shell(whole)
    assert (here / "runs/my/report.html").is_file()

    other = tmp_path / "other"
    other.mkdir()
    second = Shell(other)
    folder(other / "mydata", as_three_values, num=12, size=(48, 64))
    said = second(command_of(refused[0]), status=2)
    for shown, printed in zip(refused[1:], said.splitlines(), strict=True):
        number = re.sub(r"\\\(\d+\\\.\d%\\\)", r"\\(\\d+\\.\\d%\\)", re.escape(shown))
        assert re.fullmatch(number.replace(re.escape("..."), ".*"), printed), (shown, printed)
    assert [path.name for path in other.iterdir()] == ["mydata"]  # nothing is written
    second(command_of(answered[0]))
    config = load_config(other / "mydata.yaml")
    assert config.classes == ["background", "crack", "hole"] and config.task == "multiclass"
    assert config.data.mask_values == {0: 0, 128: 1, 255: 2}

    shutil.copytree(here / "mydata/images", here / "new")
    shutil.copytree(here / "mydata/masks", here / "truth")
    status, predict, score = map(command_of, after)
    assert "finished" in shell(status)
    shell(predict)
    assert len(list((here / "masks").glob("*.png"))) == 12
    record = shell(score)
    assert 0 <= json.loads(record[record.index("{") :])["score"] <= 1
