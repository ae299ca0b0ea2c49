"""How often files of the data are opened and decoded, counted by Python's audit hooks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distseg.config.load import dump_config, parse_config
from distseg.records.paths import Run
from tests.data.data_helpers import blob, gray, save
from tests.tiny import tiny_tree

# Every Python process of the test runs this at its start: a line for each open of a file of the
# data, and one for each decoding. Pillow decodes in `load`, while the image still has tiles.
COUNTER = """
import os, sys
from PIL import ImageFile
root, log = os.environ["COUNT_ROOT"], os.open(os.environ["COUNT_LOG"], os.O_WRONLY | os.O_APPEND)

def write(what, path):
    if isinstance(path, (str, bytes, os.PathLike)) and os.fsdecode(path).startswith(root):
        os.write(log, f"{what} {os.fsdecode(path)}\\n".encode())

def audit(event, args):
    if event == "open" and args[1] is not None:  # None: the opener of an open that was counted
        write("open", args[0])
    elif event == "test.next":
        write("next", root)
    elif event == "mmap.__new__":  # a .npy file has no decoder: its array is mapped
        path = os.path.realpath(f"/proc/self/fd/{args[0]}") if args[0] >= 0 else ""
        write("decode", path)

def load(self):
    if self.tile:
        write("decode", self.filename or self.fp.name)
    return pillow_load(self)

pillow_load, ImageFile.ImageFile.load = ImageFile.ImageFile.load, load
sys.addaudithook(audit)
"""

# What comes before the first step of training, and the data of that step; once for each pair of
# arguments, a run folder and a cache folder.
BEFORE_TRAINING = """
import sys
from pathlib import Path
from distseg.config.load import load_config
from distseg.data.dataset import TrainData, TrainSet, train_statistics
from distseg.data.fit import Fit
from distseg.data.prepare import open_cache, open_unlabeled_cache, prepare
from distseg.records.manifest import Manifest
from distseg.records.paths import Run

def begin(config, run):
    prepare(config, run)
    open_cache(config, run)  # the driver; then a job:
    manifest, cache = Manifest.read(run.truth), open_cache(config, run)
    data = TrainData(manifest, cache, open_unlabeled_cache(config, run), config, run.folder)
    train_statistics(data, manifest.train_rows(0))
    train_set = TrainSet(data, Fit(config.input), None, seed=0)
    assert len([train_set[row, 0, 0] for row in manifest.train_rows(0)]) > 4

for run, cache in zip(sys.argv[2::2], sys.argv[3::2]):
    sys.audit("test.next")
    begin(load_config(sys.argv[1], [f"data.cache_dir={cache}"]), Run(Path(run)))
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Twelve images and masks, a .npy pair and a broken image among them; two test images."""
    for i in range(12):
        save(tmp_path / f"data/images/a{i:02d}.png", gray(i, 32, 32))
        save(tmp_path / f"data/masks/a{i:02d}.png", blob(i, 32, 32))
    (tmp_path / "data/images/a11.png").write_bytes(b"no image")
    for folder in ("images", "masks"):
        path = tmp_path / f"data/{folder}/a10.png"
        np.save(path.with_suffix(".npy"), np.asarray(Image.open(path)))
        path.unlink()
    for i in range(2):
        save(tmp_path / f"data/test_images/t{i}.png", gray(100 + i, 32, 32))
    tree = tiny_tree(data={"root": str(tmp_path / "data"), "folds": {"num": 2}})
    (tmp_path / "config.yaml").write_text(dump_config(parse_config(tree, "test")))
    (tmp_path / "counter").mkdir()
    (tmp_path / "counter/sitecustomize.py").write_text(COUNTER)
    return tmp_path


Counts = tuple[Counter[str], Counter[str]]  # opens and decodings by file, relative to the data
NOTHING: Counts = (Counter(), Counter())


def count(root: Path, *command: str) -> list[Counts]:
    """What a Python command and its children open and decode, between its `test.next` events."""
    log = root / "log.txt"
    log.write_text("")
    path = os.pathsep.join([str(root / "counter"), os.environ.get("PYTHONPATH", "")])
    counting = {"PYTHONPATH": path, "COUNT_ROOT": str(root / "data"), "COUNT_LOG": str(log)}
    subprocess.run([sys.executable, *command], env={**os.environ, **counting}, check=True)
    counts: list[Counts] = [(Counter(), Counter())]
    for line in log.read_text().splitlines():
        what, _, file = line.partition(" ")
        if what == "next":
            counts.append((Counter(), Counter()))
        else:
            counts[-1][what == "decode"][str(Path(file).relative_to(root / "data"))] += 1
    return counts


def assert_one_pass(root: Path, opens: Counter[str], decodings: Counter[str]) -> None:
    images = [f"images/a{i:02d}.png" for i in range(10)] + ["images/a10.npy"]
    masks = [name.replace("images", "masks") for name in images]
    tests = [f"test_images/t{i}.png" for i in range(2)]
    assert dict(decodings) == dict.fromkeys(images + masks + tests, 1)
    assert all(opens[name] <= 2 for name in images + tests), opens
    assert all(opens[name] == 1 for name in masks), opens


def test_each_file_is_decoded_once_before_the_first_step(root: Path) -> None:
    run, second, shared, own = (str(root / name) for name in ("run", "second", "shared", "own"))
    script = ["-c", BEFORE_TRAINING, str(root / "config.yaml")]
    before, first = count(root, *script, run, shared)
    assert before == NOTHING
    assert_one_pass(root, *first)
    # another process on the same run; a node of a cluster, with its own cache folder, twice
    _, again, node, node_again, other = count(
        root, *script, run, shared, run, own, run, own, second, own
    )
    assert again == node_again == NOTHING
    assert_one_pass(root, *node)
    assert set(node[0].values()) == {1}  # the run knows the sizes
    # another run that finds the pixels checks the files of the train set, and no other
    assert not [name for name in other[1] if name.startswith("test_images")]
    assert len([path for path in (root / "own").iterdir() if path.is_dir()]) == 2


def test_inspect_decodes_once_and_leaves_no_file(root: Path) -> None:
    before = sorted(root.rglob("*"))
    ((opens, decodings),) = count(root, "-m", "distseg", "inspect", str(root / "config.yaml"))
    assert set(decodings.values()) == {1} and max(opens.values()) == 1
    assert sorted({*root.rglob("*")} - {root / "log.txt"}) == before


@pytest.mark.slow
def test_a_whole_training_opens_no_more(root: Path) -> None:
    """Training and its loaders to the end, out-of-fold predictions included."""
    config, run = str(root / "config.yaml"), Run(root / "run")
    command = ["-m", "distseg", "train", config, "--member", "a", "--fold", "0"]
    ((opens, decodings),) = count(root, *command, "--out", str(run.folder))
    assert run.member(0, "a", 0).done.is_file()
    train = Counter({name: n for name, n in decodings.items() if "test" not in name})
    assert len(train) == 22 and set(train.values()) == {1}
    assert all(opens[name] <= 2 for name in opens)
    shutil.rmtree(run.round(0) / "members")
    ((opens, decodings),) = count(root, *command, "--out", str(run.folder))
    # The check before the first job looks at the one row that folds.csv does not name: a broken one
    assert opens == Counter({"images/a11.png": 1}) and not decodings
