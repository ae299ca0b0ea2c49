"""distseg.init: from folders of each kind to configs that load, and say what they should."""

from __future__ import annotations

import math
import os
import shlex
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file

import distseg
import distseg.api
from distseg.config.load import load_config
from distseg.config.schema import Config
from distseg.data.detect import detect
from distseg.data.folds import assign_folds
from distseg.data.layouts import layout
from distseg.data.read_target import read_target
from distseg.init.choices import draft
from distseg.init.encoders import LARGE, LARGE_SCRATCH
from distseg.init.folds import Folds, groups_of
from distseg.init.given import parse_budget
from distseg.init.look import Facts, look, typical_widths
from distseg.init.make import default_name, make
from distseg.init.recipe import header
from distseg.init.sizes import Size
from distseg.init.start import init, start
from distseg.jobs.hardware import Gpu
from distseg.records.errors import UserError
from distseg.records.paces import Pace
from distseg.records.paths import Run
from distseg.run.check import mistakes
from distseg.run.plan import plan
from distseg.run.until import Until
from tests.init.made_sets import PACE, Make, as_255, as_colors, as_index, folder


def test_a_binary_folder(made: Make, tmp_path: Path) -> None:
    root = folder(tmp_path / "set", num=24, tests=3)
    config, written = made(root)
    assert (config.task, config.classes, config.metric) == ("binary", ["object"], "dice")
    assert (config.data.format, config.data.root) == ("folder", str(root))
    assert config.data.folder.test_images == "test_images"
    assert (config.input.fit, config.input.channels) == ("pad", 1)  # 48 x 64: as they are
    assert (config.input.height, config.input.width) == (64, 64)
    assert [s.loss.terms.keys() for s in config.stages] == [{"bce"}, {"bce", "lovasz"}]
    assert config.train.steps_per_epoch and config.train.batch_size == 4
    assert config.postprocess.threshold == "search"
    text = written.text
    assert "# fit: pad, because all images are 48 x 64" in text
    assert "24 train images and 3 test images" in text and "\n# Hardware: " in text
    assert all(len(line) <= 100 for line in text.splitlines() if line.startswith("#"))
    assert not mistakes(config)  # this machine can run it as it is


def test_a_short_budget_begins_with_smaller_images(made: Make, tmp_path: Path) -> None:
    root = folder(tmp_path / "set", num=24, size=(300, 400), objects=(90, 2))
    config, written = made(root, budget=90.0)
    size, (first, last) = config.input, config.stages
    assert size.fit == "resize" and last.input_size is None and first.input_size is not None
    share = math.prod(first.input_size) / (size.height * size.width)
    assert 0.2 < share < 0.8 and first.schedule.epochs > last.schedule.epochs
    said = " ".join(written.text.replace("#", " ").split())
    assert f"images with {share:.0%} of the pixels" in said and not mistakes(config)


@pytest.mark.parametrize(
    ("keys", "begins"),
    [
        (["members={m: {encoder: resnet18, decoder: {encoder_depth: 4, "
          "decoder_channels: [64, 32, 16, 16]}}}"], True),
        (["members={m: {encoder: resnet34}}"], False),  # multiples of 32
        (["members={m: {arch: PAN, encoder: resnet34}}", "input.height=128", "input.width=128"],
         False),  # it pools what the encoder leaves three times
        (["members={m: {encoder: tu-swin_tiny_patch4_window7_224}}"], False),  # no other size
        (["stages.0.input_size=null"], False),
        (["stages.1.input_size=[64, 64]"], False),  # whose time is not known
    ],
)  # fmt: skip
def test_what_the_user_says_decides_whether_images_are_smaller_at_first(
    made: Make, tmp_path: Path, keys: list[str], begins: bool
) -> None:
    root = folder(tmp_path / "set", num=24, size=(300, 400), objects=(90, 2))
    config, written = made(root, *keys, budget=90.0)
    assert (written.spent.candidate.first is not None) == begins
    assert (config.stages[0].input_size is not None) == begins and not mistakes(config)


def test_multiclass_index_masks(made: Make, tmp_path: Path) -> None:
    config, _ = made(folder(tmp_path / "set", as_index))
    assert config.task == "multiclass" and config.metric == "miou"
    assert config.classes == ["background", "class_1", "class_2"]
    assert [s.loss.terms.keys() for s in config.stages] == [
        {"cross_entropy"}, {"cross_entropy", "lovasz_softmax"},
    ]  # fmt: skip
    assert config.postprocess.threshold == 0.5  # multiclass has none to search


def test_two_class_color_masks_are_read_as_they_are(made: Make, tmp_path: Path) -> None:
    config, _ = made(folder(tmp_path / "set", as_colors))
    assert config.task == "multiclass"
    assert set(config.classes[1:]) == {"red", "green"} and config.classes[0] == "background"
    for number, row in enumerate(layout("folder").train(config)):
        target = read_target(row.target, config, 48, 64)[0]
        shown = np.asarray(Image.open(row.target.removeprefix("file:")))
        for place, name in enumerate(config.classes):
            color = {"background": (0, 0, 0), "red": (255, 0, 0), "green": (0, 255, 0)}[name]
            assert ((target == place) == (shown == color).all(axis=2)).all(), number


def twelve_bits(array: NDArray[np.uint8]) -> NDArray:
    return array.astype(np.uint16) * 16


def test_images_of_12_bits(made: Make, tmp_path: Path) -> None:
    config, written = made(folder(tmp_path / "set", image=twelve_bits))
    assert config.data.levels is None and config.input.channels == 1
    assert "images have more than 8 bits (the sample holds 0 to 3184)" in written.text


def test_tiny_objects_in_large_images(made: Make, tmp_path: Path) -> None:
    root = folder(tmp_path / "set", num=8, size=(900, 1000), objects=(12, 6))
    config, written = made(root, budget=1800)
    size = config.input
    assert size.fit == "crop" and size.foreground > 0 and size.overlap is not None
    assert size.height < 900 and size.height % 32 == 0
    assert "fit: crop, because all images are 900 x 1000 and small objects are 12" in written.text
    assert config.predict.batch_size == 1


def test_masks_with_a_suffix_beside_their_images(made: Make, tmp_path: Path) -> None:
    root = folder(tmp_path / "set", places=("train", "train"), suffix="_mask")
    config, _ = made(root)
    assert config.data.folder.mask == "{id}_mask"
    assert len(layout("folder").train(config)) == 12


@pytest.mark.parametrize(("said", "kind"), [((), "split"), (("holdout",), "holdout")])
def test_a_split_of_its_own_counts_where_the_format_is_said(
    made: Make, tmp_path: Path, said: tuple[str, ...], kind: str
) -> None:
    for part, num in (("train", 12), ("val", 4)):
        folder(tmp_path / "set", num=num, places=(f"{part}/images", f"{part}/masks"),
               names=part + "{}")  # fmt: skip
    keys = [f"data.folds.kind={one}" for one in said]
    config, _ = made(tmp_path / "set", "data.format=folder", *keys)
    assert config.data.folds.kind == kind


def test_a_jpeg_s_noise_gets_its_threshold(made: Make, tmp_path: Path) -> None:
    config, written = made(folder(tmp_path / "set", extension=".jpg"))
    assert config.data.folder.threshold == 127 and config.task == "binary"
    assert "noise of a lossy file" in written.text


def test_groups_in_names_become_folds(made: Make, tmp_path: Path) -> None:
    root = folder(tmp_path / "set", num=30)
    for place in ("images", "masks"):
        for number, path in enumerate(sorted((root / place).iterdir())):
            path.rename(path.with_name(f"patient{number // 5:02d}_slice{number % 5}.png"))
    config, _ = made(root)
    folds = config.data.folds
    assert (folds.kind, folds.column) == ("group", "group") and folds.groups is not None
    table = Path(folds.groups).read_text().splitlines()
    assert table[:2] == ["id,group", "patient00_slice0,patient00"] and len(table) == 31
    assert not mistakes(config)


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        ([f"p{i // 4:02d}_{i % 4}" for i in range(40)], 10),
        ([f"image_{i}" for i in range(40)], 0),  # a word before a number only counts
        ([f"breed{'ab'[i % 2]}_{i}" for i in range(40)], 0),  # two of them are no groups
        ([f"{i * 7919:08x}" for i in range(40)], 0),
        ([f"beagle_{i}" if i % 2 else f"poodle_{i}" for i in range(40)], 0),
    ],
)
def test_groups_are_found_where_the_names_have_them(names: list[str], groups: int) -> None:
    found = groups_of(names)
    assert len(set((found or {}).values())) == groups


def test_objects_are_as_wide_as_most_of_their_pixels_say() -> None:
    assert typical_widths([2.0] * 10 + [100.0] * 10) == (100.0, 100.0)  # crumbs hide nothing
    assert typical_widths([10.0] * 50 + [30.0] * 50) == (10.0, 30.0)


def gray_128(mask: NDArray[np.bool_], number: int) -> NDArray:
    return (mask * (128 if number % 2 else 255)).astype(np.uint8)


def one_two(mask: NDArray[np.bool_], _number: int) -> NDArray:
    return (mask + 1).astype(np.uint8)


@pytest.mark.parametrize(
    ("mask", "told", "answer"),
    [
        (gray_128, "task=multiclass", ("task=multiclass",)),
        (one_two, "data.mask_values", ("data.mask_values={1: 0, 2: 1}",)),
    ],
)
def test_what_needs_a_person_is_refused_and_then_taken(
    made: Make, tmp_path: Path, mask: Any, told: str, answer: tuple[str, ...]
) -> None:
    root = folder(tmp_path / "set", mask)
    with pytest.raises(UserError) as error:
        made(root)
    assert told in str(error.value)
    config, _ = made(root, *answer)
    assert config.data.mask_values is not None


def test_keys_that_are_given_stand_in_the_config(made: Make, tmp_path: Path) -> None:
    root = folder(tmp_path / "set")
    config, written = made(
        root, "classes=[cell]", "stages.0.optimizer.lr=0.01", "input.height=96", "input.width=64",
        "metric=iou", "name=other",
    )  # fmt: skip
    assert (config.classes, config.metric, config.name) == (["cell"], "iou", "other")
    assert config.stages[0].optimizer.lr == 0.01
    assert (config.input.height, config.input.width, config.input.fit) == (96, 64, "resize")
    assert "# as given\ninput:" in written.text and "what the budget allows" not in written.text


def test_plan_knows_what_init_has_measured(
    made: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISTSEG_PACES")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config, written = made(folder(tmp_path / "set", tests=2))
    text = plan(config, Run(tmp_path / "run"))
    about = written.spent.forecast.text().partition(" (")[0]
    assert "by what this machine has shown" in text and f"time: about {about} (" in text


def test_a_size_to_which_a_measurement_leads_is_measured_too(
    made: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step takes 40 ms beside its pixels, which proportions do not show: what is measured at one
    size looks faster at a smaller one than it is."""
    measured = []

    def paces(config: Config, *_: Any) -> dict[str, Pace]:
        size = config.input_of("m0")
        measured.append((size.height, size.width))
        step = 0.04 + 0.4 * size.height * size.width / 128**2
        pace = replace(PACE, step_s=step, first_step_s=step, batch_size=config.train.batch_size)
        return dict.fromkeys(config.members, pace)

    monkeypatch.setattr("distseg.init.make.measured_paces", paces)
    config, written = made(folder(tmp_path / "set", num=100, size=(192, 192)), budget=300)
    chosen = (config.input.height, config.input.width)
    assert measured == [(128, 128), (96, 96), (64, 64)] and chosen == (64, 64)
    assert written.spent.candidate.pace.step_s == pytest.approx(0.04 + 0.4 / 4)


def test_what_two_members_side_by_side_take_is_measured_where_they_are_chosen(
    made: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On two cores, a step takes as long on one of them as on both."""
    measured = []

    def paces(config: Config, _size: Any, slots: Any, *_: Any) -> dict[str, Pace]:
        size = config.input_of("m0")
        measured.append((size.height, size.width, len(slots)))
        step = 0.02 + 0.2 * size.height * size.width / 128**2
        pace = replace(PACE, step_s=step, first_step_s=step, batch_size=config.train.batch_size)
        return dict.fromkeys(config.members, pace)

    monkeypatch.setattr("distseg.init.make.measured_paces", paces)
    monkeypatch.setattr("distseg.init.make.num_cores", lambda: 2)
    config, written = made(folder(tmp_path / "set", num=100, size=(192, 192)), budget=600)
    jobs = config.compute.slots or 1
    assert measured[0][2] == 2 and (config.input.height, config.input.width, jobs) in measured[1:]
    pixels = config.input.height * config.input.width
    assert written.spent.candidate.pace.step_s == pytest.approx(0.02 + 0.2 * pixels / 128**2)


def test_a_budget_that_is_too_short_is_said(made: Make, tmp_path: Path) -> None:
    _, written = made(folder(tmp_path / "set"), budget=3)
    assert "THE BUDGET OF 3s IS TOO SHORT" in written.text


def test_objects_that_a_budget_loses_are_said(tmp_path: Path) -> None:
    facts = look(folder(tmp_path / "set"), {}, seconds=2)
    folds = Folds("holdout", 1, 1, 0.8, False)

    def said(facts: Facts, fit: str, scale: float) -> str:
        way = draft(Size(96, 96, fit, scale, 96 * 96), folds, 4)
        return "\n".join(header(facts, way, "said", "command", "to", "CPU", 300.0, fits=True))

    tiny = replace(facts, objects=(5.0, 7.0))
    text = said(tiny, "resize", 0.128)
    assert "THE BUDGET OF 5m00s IS SHORT FOR OBJECTS THIS SMALL: at 13% of" in text
    assert "they are 0.6 to 0.9 pixels wide" in text
    mixed = replace(facts, objects=(5.0, 80.0))
    chosen = replace(tiny, keys={**facts.keys, "input": {"fit": "resize"}})
    for other in (said(tiny, "crop", 1.0), said(tiny, "resize", 1.0), said(mixed, "resize", 0.128),
                  said(chosen, "resize", 0.128)):  # fmt: skip
        assert "IS SHORT" not in other


def test_nothing_is_written_over(made: Make, tmp_path: Path) -> None:
    root = folder(tmp_path / "set")
    made(root)
    with pytest.raises(UserError, match="is there already"):
        made(root)


def test_a_run_of_a_folder_takes_the_config_of_its_first_start(
    made: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, out = folder(tmp_path / "set", num=30), tmp_path / "run"
    path, run = start(root, ["seed=3"], out, "10m", None)
    assert run == out and load_config(path).seed == 3
    text = Path(path).read_text()
    monkeypatch.setattr("distseg.init.make.measured_paces", lambda *_: pytest.fail("made again"))
    assert start(root, ["seed=3"], out, "10m", None) == (path, out)
    assert Path(path).read_text() == text
    with pytest.raises(UserError, match="an earlier start has written it for another"):
        start(root, ["seed=4"], out, "10m", None)


@pytest.mark.parametrize(
    ("text", "seconds"), [("30m", 1800), ("1h30m", 5400), ("90s", 90), ("45", 45), ("1.5h", 5400)]
)
def test_budgets(text: str, seconds: float) -> None:
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-5m", "0", "5 m", "1e9h", "m30"])
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="30m, 1h30m or 90s"):
        parse_budget(text)


def test_names_of_folders_become_names_of_configs(tmp_path: Path) -> None:
    assert default_name(Path("/data/my set (2)")) == "my_set_2"
    assert default_name(Path("/data/...")) == "data"


@pytest.mark.usefixtures("made")
def test_a_config_that_is_written_elsewhere_has_a_run_folder_of_its_own(tmp_path: Path) -> None:
    """`run mydata` and `init mydata -o my.yaml` may choose differently: each is a run."""
    root = folder(tmp_path / "mydata")
    path, _ = init(root, [], tmp_path / "my one.yaml", "1m", None)
    assert load_config(path).name == "my_one"
    path, _ = init(root, ["name=mine"], tmp_path / "my.yaml", "1m", None)
    assert load_config(path).name == "mine"
    _, run = start(root, [], tmp_path / "runs/other", "1m", None)
    assert load_config(run / "init.yaml").name == "mydata"


def test_a_folder_that_no_layout_knows_is_refused_with_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "stuff").mkdir()
    with pytest.raises(UserError, match=r"no layout is recognized \(it holds stuff\).*images"):
        detect(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        detect(tmp_path / "stuf")


def test_class_folders_are_a_mask_each(made: Make, tmp_path: Path) -> None:
    root = folder(tmp_path / "set")
    for name in ("crack", "hole"):
        (root / "masks" / name).mkdir()
    for path in sorted((root / "masks").glob("*.png")):
        for name in ("crack", "hole"):
            Image.open(path).save(root / "masks" / name / path.name)
        path.unlink()
    config, _ = made(root)
    assert (config.task, config.classes) == ("multilabel", ["crack", "hole"])


def test_comments_hold_whatever_a_name_says(made: Make, tmp_path: Path) -> None:
    root = folder(tmp_path / "a\nevil: [1")
    _, written = made(root)
    assert yaml.safe_load(written.text)["data"]["root"] == str(root)


def test_a_machine_with_gpus_gets_larger_networks_and_inputs(
    made: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus = [Gpu("0", "H100", 80 << 30), Gpu("1", "H100", 80 << 30)]
    monkeypatch.setattr("distseg.init.make.visible_gpus", lambda: gpus)
    fast = replace(
        PACE, batch_size=16, step_s=0.05, first_step_s=0.05, evaluate_s=0.002, predict_s=0.004
    )
    monkeypatch.setattr("distseg.init.make.measured_paces", lambda *_: {"m0": fast, "m1": fast})
    root = folder(tmp_path / "set", num=30, size=(400, 400), objects=(40, 3))
    config, written = made(root, budget=3600)
    assert config.input.height > 256 and config.compute.slots is None
    assert "2 GPUs" in written.text and not mistakes(config)
    assert next(iter(config.members.values())).encoder in {
        one.name for one in LARGE_SCRATCH + LARGE
    }
    small = replace(fast, memory=79 << 30)  # measured at 384 x 384: what is larger does not fit
    monkeypatch.setattr("distseg.init.make.measured_paces", lambda *_: {"m0": small, "m1": small})
    (tmp_path / "my.yaml").unlink()
    with pytest.raises(UserError, match="no network could be measured"):
        made(root)


def test_weights_of_a_folder_are_taken_by_their_names(made: Make, tmp_path: Path) -> None:
    weights, root = tmp_path / "weights", folder(tmp_path / "set")
    weights.mkdir()
    with pytest.raises(UserError, match=r"it holds no .safetensors file. A file is named by"):
        made(root, weights=weights)
    encoder = smp.encoders.get_encoder("resnet18", weights=None)
    save_file(encoder.state_dict(), weights / "resnet18.safetensors")
    save_file({"a": torch.ones(1)}, weights / "resnet34.safetensors")
    save_file({"a": torch.ones(1)}, weights / "what.safetensors")
    config, written = made(root, weights=weights)
    (member, *_) = config.members.values()
    assert member.encoder == "resnet18" and str(member.encoder_weights).endswith(
        "resnet18.safetensors"
    )
    assert config.stages[0].optimizer.encoder_lr is not None  # what is trained moves less
    assert not mistakes(config) and "U-Net with resnet18 (resnet18.safetensors)" in written.text
    (weights / "resnet18.safetensors").unlink()
    with pytest.raises(UserError, match=r"resnet34.safetensors: .*does not fit|what.safetensors"):
        made(root, weights=weights)


REAL: Mapping[str, Mapping[str, Any]] = {
    "tgs": {"task": "binary", "classes": ["salt"], "metric": "tgs", "channels": 1},
    "camvid": {"task": "multiclass", "void": 11, "kind": "split", "channels": 3},
    "oxford_pet": {"task": "binary", "classes": ["pet"], "channels": 3},
    "severstal": {"task": "multilabel", "channels": 1},
    "tianchi": {"task": "binary", "classes": ["building"], "channels": 3},
}


@pytest.mark.data
@pytest.mark.parametrize("name", list(REAL))
def test_real_sets(made: Make, data_root: Path, name: str) -> None:
    config, _ = made(data_root / name)
    assert config.data.format == name
    found = {**config.model_dump(), "kind": config.data.folds.kind}
    found["channels"] = config.input.channels
    for key, value in REAL[name].items():
        assert found[key] == value


def test_what_is_looked_at_is_bounded(tmp_path: Path) -> None:
    root = folder(tmp_path / "set", as_255, num=40)
    facts = look(root, {}, seconds=0.0)
    assert facts.sampled == 24 and facts.num_train == 40  # spread over the set


@pytest.mark.parametrize("num", [2, 3, 4, 5, 7])
def test_a_few_images_can_be_divided(made: Make, tmp_path: Path, num: int) -> None:
    config, _ = made(folder(tmp_path / "set", num=num))
    rows = layout("folder").train(config)
    names, alike = [row.id for row in rows], np.full((num, 1), 0.1)
    folds = assign_folds(config, rows, alike, [], names)
    assert len(rows) == num and 0 in folds and len(set(folds)) > 1


def test_one_image_cannot(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="set: one image can be used; a score needs another"):
        make(folder(tmp_path / "set", num=1))


def test_rows_that_a_run_would_refuse_are_refused_before_anything_is_measured(
    made: Make, tmp_path: Path
) -> None:
    root = folder(tmp_path / "set")
    for name in ("000", "004", "007"):
        (root / f"masks/{name}.png").unlink()
    with pytest.raises(UserError, match=r"3 of 12 rows are bad for one reason: no mask of this"):
        make(root)
    config, written = made(root, "data.allow_bad=true")
    assert config.data.allow_bad and "Rows that cannot be used: 3" in written.text
    for path in (root / "masks").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"it holds images, masks; .*masks"):
        make(root)


@pytest.mark.parametrize(
    ("overrides", "lines"),
    [
        (["foo=1", "stages=5"], ["foo: unknown key", "stages: needs a list, not 5"]),
        (["members.x.arch=Unot"], ["members.x.arch: 'Unot' is not valid. Did you mean 'Unet'"]),
        (["data=5", "input=3"], ["data: needs keys, not 5", "input: needs keys, not 3"]),
        (["stages.0.schedule.cicles=3"], ["stages.0.schedule.cicles: unknown key"]),
        (["members.x.encoder=resnt34"], ["members.x.encoder: ", "resnet34"]),
        (["stages.0.loss.lovasz_softmax=1"], ["lovasz_softmax: is not for task: binary"]),
        (["data.folds.kind=holdout", "data.folds.num=3"], ["num: 3: kind: holdout does not read"]),
        (["data.folds.use=[7]", "data.folds.num=3"], ["use: fold 7 does not exist"]),
        (["data.folds.num=40"], ["cannot make 40 folds"]),
        (["train.accumulation=3"], ["train.accumulation: 3 does not divide"]),
    ],
)
def test_a_mistake_in_a_key_is_found_before_anything_is_measured(
    made: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: list[str],
    lines: list[str],
) -> None:  # fmt: skip
    monkeypatch.setattr("distseg.init.make.measured_paces", lambda *_: pytest.fail("measured"))
    with pytest.raises(UserError) as caught:
        make(folder(tmp_path / "set"), overrides)
    assert all(line in str(caught.value) for line in lines), caught.value


def test_commands_in_the_file_can_be_pasted(made: Make, tmp_path: Path) -> None:
    root = folder(tmp_path / "a set of two")
    _, written = made(root, "classes=[crack]", target="'my cfg.yaml'")
    lines = written.text.replace("\n#  ", "").splitlines()
    assert lines[0] == "# distseg run 'my cfg.yaml'"
    command = lines[1].removeprefix("# Written by `").removesuffix("`.")
    assert shlex.split(command)[2:4] == [str(root), "classes=[crack]"]


def test_a_run_folder_among_the_images_is_refused_and_nothing_is_left(
    made: Make, tmp_path: Path
) -> None:
    root = folder(tmp_path / "set")
    with pytest.raises(UserError, match="among the images and masks"):
        start(root, [], root / "images/out", "10m", None)
    assert not (root / "images/out").exists()
    with pytest.raises(UserError, match="is a file, not a folder"):
        start(root, [], root / "images/000.png", "10m", None)


def test_a_run_folder_below_one_that_is_read_whole_is_refused(made: Make, tmp_path: Path) -> None:
    root = tmp_path / "set"
    for name in ("benign", "malignant"):
        folder(root, places=(name, name), names=f"{name} ({{}})", suffix="_mask")
    with pytest.raises(UserError, match="among the images and masks"):
        start(root, [], root / "runs/a", "10m", None)
    assert not (root / "runs").exists()
    with pytest.raises(UserError, match=r"-o: .*: is a folder"):
        init(root, [], tmp_path, None, None)


def test_what_a_key_needs_is_chosen(made: Make, tmp_path: Path) -> None:
    """Rounds that judge the train rows out of fold need folds, whatever a short budget would have;
    random sizes of a stage's input need an input that is not padded."""
    root, path = folder(tmp_path / "set", num=30), tmp_path / "my.yaml"
    config, _ = made(root, budget=120.0)
    assert config.data.folds.kind == "holdout"
    path.unlink()
    config, _ = made(root, "rounds=[{}, {kind: self_distill, rules: {min_iou: 0.4}}]", budget=120.0)
    assert config.data.folds.kind == "stratified" and len(config.rounds) == 2
    path.unlink()
    config, _ = made(root, "stages.0.input_size=[32, 32]")
    assert config.input.fit != "pad"


def test_a_whole_section_is_laid_over_what_is_found(made: Make, tmp_path: Path) -> None:
    root, path = folder(tmp_path / "set", num=20), tmp_path / "my.yaml"
    config, written = made(root, "data={limit: 16}", "input={normalize: train}")
    assert (config.data.format, config.data.limit, config.input.channels) == ("folder", 16, 1)
    assert "16 train images" in written.text and config.input.normalize == "train"
    path.unlink()
    made(root, "stages.0.loss.bce=2", "augment.0.hflip.p=0.1")
    path.unlink()
    config, _ = made(root)  # nothing of that is left for the next one
    assert "bce: 2" not in path.read_text() and "p: 0.1}" not in path.read_text()


def test_colors_of_the_weights_give_way_to_measured_ones(made: Make, tmp_path: Path) -> None:
    weights, root = tmp_path / "weights", folder(tmp_path / "set")
    weights.mkdir()
    encoder = smp.encoders.get_encoder("tu-tf_efficientnet_lite0", weights=None)
    save_file(encoder.state_dict(), weights / "tu-tf_efficientnet_lite0.safetensors")
    config, _ = made(root, weights=weights)
    assert config.input.mean is not None
    (tmp_path / "my.yaml").unlink()
    config, _ = made(root, "input.normalize=train", weights=weights)
    assert (config.input.mean, config.input.std) == (None, None)


@pytest.mark.parametrize("name", ["groups.csv", "init.json", "report.html"])
def test_files_of_the_user_s_in_the_run_folder_are_left_alone(
    made: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("distseg.init.make.measured_paces", lambda *_: pytest.fail("measured"))
    root, out = folder(tmp_path / "set", num=30), tmp_path / "run"
    out.mkdir()
    (out / name).write_text('{"mine": 1}')
    with pytest.raises(UserError, match=name):
        start(root, [], out, "10m", None)
    assert (out / name).read_text() == '{"mine": 1}' and len(list(out.iterdir())) == 1


def test_what_a_killed_start_has_left_is_written_again(made: Make, tmp_path: Path) -> None:
    root, out = folder(tmp_path / "set", num=30, names="p{:02d}_1"), tmp_path / "run"
    for place in ("images", "masks"):
        for number, file in enumerate(sorted((root / place).iterdir())):
            file.rename(file.with_name(f"patient{number // 5:02d}_{number % 5}.png"))
    path, _ = start(root, [], out, "10m", None)
    text, table = Path(path).read_text(), (out / "groups.csv").read_text()
    Path(path).unlink()  # killed before it was written
    (out / "groups.csv").write_text(table[:40])
    with pytest.raises(UserError, match=r"groups.csv: is there, and no start like this one"):
        start(root, ["seed=1"], out, "10m", None)
    start(root, [], out, "10m", None)
    assert (out / "groups.csv").read_text() == table
    assert Path(path).read_text().count("\n") == text.count("\n")


def test_a_place_that_cannot_be_written_is_found_before_anything_is_measured(
    made: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distseg.init.make.look", lambda *_, **__: pytest.fail("looked"))
    root = folder(tmp_path / "set")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--out: .*file/run: cannot be written: Not a directory"):
        start(root, [], tmp_path / "file/run", "10m", None)
    with pytest.raises(UserError, match=r"-o: .*file/my.yaml: cannot be written: Not a directory"):
        init(root, [], tmp_path / "file/my.yaml", None, None)
    with pytest.raises(UserError, match="among the images and masks"):
        start(root, [], root / "masks/out", "10m", None)
    if os.geteuid():
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o500)
        with pytest.raises(UserError, match="cannot be written: Permission denied"):
            start(root, [], closed / "runs/a", "10m", None)
    assert not (tmp_path / "runs").exists()


def test_until_counts_what_comes_before_the_first_job(
    made: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, out, ends = folder(tmp_path / "set"), tmp_path / "run", []

    def stop(_config: Any, _folder: Path, until: Until) -> int:
        ends.append(until.at)
        return 1

    monkeypatch.setattr("distseg.run.pipeline.run", stop)
    began = time.monotonic()
    with pytest.raises(distseg.api.RunFailed):
        distseg.run(root, out=out, until="1h")
    assert (out / "init.yaml").is_file()  # that has taken its time
    (end,) = ends
    assert end is not None and began + 3600 <= end < began + 3600 + (time.monotonic() - began) / 2
