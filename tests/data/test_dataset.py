from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from distseg.data.augment import Augment
from distseg.data.cache import build_cache
from distseg.data.dataset import (
    EvalSet,
    ImageFiles,
    TrainData,
    TrainSet,
    sample_seed,
    worker_init,
)
from distseg.data.fit import Fit
from distseg.data.read_input import Reading
from distseg.data.sampling import Sampling, micro_batches_of_epoch
from distseg.records.manifest import Manifest, Sample
from tests.data.data_helpers import config, folder, gray, made, save, steps

AUGMENT: list[dict[str, Any]] = [
    {"hflip": {}},
    {"affine": {"scale": [0.8, 1.2], "p": 0.8}},
    {"noise": {}},
]


def train_set(tmp_path: Path, **options: object) -> TrainSet:
    c, m = made(tmp_path)
    fit = Fit(c.input.model_copy(update={"random_offset": True, **options}))
    data = TrainData(m, build_cache(c, m, tmp_path / "cache"), None, c, tmp_path)
    return TrainSet(data, fit, Augment(steps(*AUGMENT)), seed=3)


@pytest.mark.parametrize("fit", ["pad", "resize", "crop"])
def test_samples_are_canvas_sized_tensors(tmp_path: Path, fit: str) -> None:
    sample = train_set(tmp_path, fit=fit)[(6, 0, 0)]  # the odd one
    for key in ("image", "target"):
        assert sample[key].shape == (1, 32, 32) and sample[key].dtype == torch.uint8
        assert sample[key].is_contiguous()
    assert sample["row"] == 6
    assert set(sample["target"].unique().tolist()) <= {0, 1}


@pytest.mark.parametrize("fit", ["pad", "resize", "crop"])
def test_a_teachers_view_lies_pixel_by_pixel_beside_the_image(tmp_path: Path, fit: str) -> None:
    """Noise alone keeps them apart: without it they are the same, through crop, border and flip."""
    data = train_set(tmp_path, fit=fit, foreground=0.5 if fit == "crop" else 0.0)
    quiet = Augment(steps(*AUGMENT[:2], {"noise": {"p": 0.0}}))
    assert isinstance(data.augment, Augment)
    data.geometry = data.augment.geometry
    plain = TrainSet(data.data, data.fit, quiet, seed=3)
    differ = 0
    for epoch in range(3):
        for row in range(7):
            sample, expected = data[(row, epoch, 0)], plain[(row, epoch, 0)]
            assert torch.equal(sample["view"], expected["image"])
            assert torch.equal(sample["target"], expected["target"])
            differ += not torch.equal(sample["view"], sample["image"])
    assert differ > 3 and "view" not in expected


def test_an_unlabeled_row_is_a_test_image_without_a_target(tmp_path: Path) -> None:
    c, m = made(tmp_path)
    cache = build_cache(c, m, tmp_path / "cache")
    one = m[1]
    rows = [Sample(f"unlabeled:{one.id}", one.image, origin="unlabeled", height=16, width=16), one]
    data = TrainData(Manifest(rows), cache, cache, c, tmp_path)
    assert np.array_equal(data.image(0), cache.image(one.id))
    assert data.target(0).shape == (1, 16, 16) and (data.target(0) == 255).all()
    assert Manifest(rows).train_rows(1) == [0, 1] and Manifest(rows).val_rows(0) == [1]
    assert Manifest([replace(rows[0], origin="labeled")]).train_rows(1) == []


def test_a_sample_is_a_function_of_seed_epoch_and_id(tmp_path: Path) -> None:
    """Not of the order, the row number, the process or what was asked before."""
    data = train_set(tmp_path)
    again = train_set(tmp_path)
    keys = [(row, epoch, 0) for epoch in range(3) for row in range(7)]
    forward = {key: data[key]["image"] for key in keys}
    backward = {key: again[key]["image"] for key in reversed(keys)}
    assert all(torch.equal(forward[key], backward[key]) for key in keys)
    assert len({forward[(1, epoch, 0)].numpy().tobytes() for epoch in range(3)}) == 3
    again.seed += 1
    assert any(not torch.equal(again[key]["image"], forward[key]) for key in keys)
    turned = Manifest(again.data.manifest.samples[::-1])
    again.seed, again.names = 3, again.names[::-1]
    again.data.manifest = turned
    assert torch.equal(again[(0, 1, 0)]["image"], forward[(6, 1, 0)])


def test_workers_give_what_one_process_gives(tmp_path: Path) -> None:
    data = train_set(tmp_path)
    steps = micro_batches_of_epoch(Sampling(range(7), 4, 0), 2)
    batches = [[item[:3] for item in step] for step in steps]
    loaders = [
        DataLoader(data, batch_sampler=batches, num_workers=n, worker_init_fn=worker_init)
        for n in (0, 2)
    ]
    for one, two in zip(*loaders, strict=True):
        assert torch.equal(one["image"], two["image"]) and torch.equal(one["target"], two["target"])
        assert one["row"].tolist() == two["row"].tolist()


def test_writing_into_a_sample_leaves_the_cache_alone(tmp_path: Path) -> None:
    data = train_set(tmp_path)
    data.augment = None
    before = data.data.cache.image("a1").copy()
    data[(1, 0, 0)]["image"].zero_()
    assert np.array_equal(data.data.cache.image("a1"), before)


def test_eval_set_is_the_prediction_canvas(tmp_path: Path) -> None:
    c, m = made(tmp_path)
    fit = Fit(c.input)
    data = EvalSet(m, [6, 1], build_cache(c, m, tmp_path / "cache"), fit)
    assert data.sizes == [(20, 11), (16, 16)] and len(data) == 2
    item = data[1]
    assert item["row"] == 1
    assert fit.inverse(item["image"][None], 16, 16)[0, 0].tolist() == gray(1).tolist()


def test_a_broken_test_image_is_an_error_text_and_a_black_canvas(tmp_path: Path) -> None:
    root = folder(tmp_path)
    (root / "test_images/broken.png").write_bytes(b"no")
    c = config(root)
    samples: list[Sample | str] = [
        Sample("t0", str(root / "test_images/t0.png")),
        Sample("broken", str(root / "test_images/broken.png"), height=16, width=20),
        str(root / "test_images/none.png"),
    ]
    good, broken, none = map(ImageFiles(samples, Reading(1), Fit(c.input)).__getitem__, range(3))
    assert (good["height"], good["width"], good["error"], good["index"]) == (16, 16, "", 0)
    assert good["image"].shape == (1, 32, 32) and good["image"].any()
    assert (broken["height"], broken["width"]) == (16, 20) and "broken.png" in broken["error"]
    assert not broken["image"].any() and not none["image"].any()
    assert "no such file" in none["error"] and none["image"].shape == (1, 1, 1)
    good, broken = ImageFiles(samples, Reading(1), Fit(c.input)).__getitems__([0, 1])
    assert good["image"].any() and not broken["image"].any()  # beside a good one: of its size
    assert good["image"].shape == broken["image"].shape == (1, 32, 32)


def test_seeds_differ() -> None:
    seeds = {
        sample_seed(s, e, n) for s in range(4) for e in range(20) for n in ("a", "b", "1", "11")
    }
    assert len(seeds) == 4 * 20 * 4 and max(seeds) < 2**64


def test_odd_shapes_and_channels(tmp_path: Path) -> None:
    save(tmp_path / "images/a.png", np.stack([gray(1, 10, 30)] * 3, axis=2))
    save(tmp_path / "masks/a.png", gray(1, 10, 30) // 128)
    c = config(tmp_path, input__channels=3, input__width=64)
    m = Manifest([Sample("a", str(tmp_path / "images/a.png"), f"file:{tmp_path / 'masks/a.png'}")])
    everything = Augment(steps({"rot90": {"p": 1}}, {"transpose": {"p": 1}}, {"elastic": {"p": 1}}))
    for fit in ("pad", "resize", "crop"):
        f = Fit(c.input.model_copy(update={"fit": fit}))
        source = TrainData(m, build_cache(c, m, tmp_path / "cache"), None, c, tmp_path)
        data = TrainSet(source, f, everything, 0)
        assert data[(0, 0, 0)]["image"].shape == (3, 32, 64)
