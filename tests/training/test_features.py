"""Feature maps of a frozen encoder, read in place of images: the same training, computed once."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from distseg.config.load import parse_config
from distseg.config.member import MemberConfig
from distseg.config.schema import Config
from distseg.data.features import StoreWriter
from distseg.distributed import make_accelerator
from distseg.models.build import build_model
from distseg.models.frozen import given, layout_of, maps_of
from distseg.models.pyramid import ENCODER as PLACE
from distseg.models.pyramid import trunk
from distseg.records.errors import UserError
from distseg.records.paths import Run
from distseg.run.measure import DataSize, feature_bytes, model_sizes
from distseg.training import features as computed
from distseg.training import train as trainer
from distseg.training.member import Member
from distseg.training.stage import begin_epoch, set_up_stage, train_step
from distseg.training.train import train_member
from tests.tiny import PATIENCE_S, tiny_tree
from tests.training.tiny_frozen import DECODER, ENCODER, frozen_tree, write_weights
from tests.training.tiny_training import (
    Launch,
    arguments,
    assert_same_bits,
    losses,
    set_up,
    train_here,
    train_there,
    weights,
)

TOLERANCE = 2e-3  # of the largest logit: float16 keeps 11 bits of each number of a map


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.set_num_threads(1)
    return write_weights(tmp_path_factory.mktemp("weights") / "encoder.safetensors")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Keys of the stores that were computed."""
    found: list[str] = []
    finish = StoreWriter.finish

    def count(writer: StoreWriter) -> None:
        found.append(writer.wanted.key)
        finish(writer)

    monkeypatch.setattr(StoreWriter, "finish", count)
    yield found


def cached(tree: dict[str, Any], gigabytes: float, **more: Any) -> dict[str, Any]:
    return {**tree, "data": {**tiny_tree()["data"], "feature_cache_gb": gigabytes}, **more}


def member_of(config: Config, run: Run, name: str = "a", fold: int = 0) -> Member:
    return Member(config, run, 0, name, fold, make_accelerator(config, cpu=True))


def log_of(run: Run) -> str:
    return run.member(0, "a", 0).log(0).read_text()


def test_training_on_maps_is_training_on_images(tmp_path: Path, file: str, made: list[str]) -> None:
    """The same draws, order and dropout; only float16 lies between. A limit that is too small gives
    the second form, and says so."""
    tree = frozen_tree(file, views=3, optimizer={"name": "sgd", "lr": 1e-2})
    runs = {}
    for name, limit in (("maps", 10.0), ("images", 0.0), ("small", 1e-6)):
        config, run = set_up(tmp_path / name, **cached(tree, limit))
        train_member(config, run.folder, 0, "a", 0)
        runs[name] = run
        assert len(made) == 1
    found = {name: losses(run.member(0, "a", 0)) for name, run in runs.items()}
    assert found["maps"] == pytest.approx(found["images"], rel=TOLERANCE)
    assert found["maps"] != found["images"]
    assert found["small"] == found["images"]
    assert_same_bits(runs["small"].member(0, "a", 0), runs["images"].member(0, "a", 0))
    one, other = weights(runs["maps"].member(0, "a", 0)), weights(runs["images"].member(0, "a", 0))
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=0.02, atol=2e-3)
    assert log_of(runs["small"]).count("maps are computed in each step: they take") == 1
    assert "data.feature_cache_gb is 1e-06" in log_of(runs["small"])
    assert "computed in each step" not in log_of(runs["images"])
    assert log_of(runs["maps"]).count("the frozen encoder's maps are read from") == 1
    assert log_of(runs["maps"]).count("maps of the frozen encoder: 37 images x 3 draws") == 1


def test_a_step_reads_maps_and_leaves_the_encoder_alone(tmp_path: Path, file: str) -> None:
    config, run = set_up(tmp_path, **frozen_tree(file))
    member = member_of(config, run)
    stage = set_up_stage(member, 0)
    calls: list[int] = []
    encoder = member.model.get_submodule(PLACE)
    encoder.get_submodule("model.conv_stem").register_forward_hook(lambda *_: calls.append(1))
    frozen, batches = begin_epoch(stage, 0), stage.batches.epoch(0)
    loaded = next(batches)
    assert "image" not in loaded.tensors
    assert loaded.tensors["features"].dtype == torch.float16
    train_step(member, stage, batches, epoch=0, step=0, lr_factor=1.0, frozen=frozen)
    assert not calls and "forward" not in encoder.__dict__
    member.model(torch.zeros(1, 1, 32, 32))
    assert calls


@pytest.mark.parametrize(
    ("arch", "more"),
    [
        ("Unet", {}),
        ("Linknet", {}),
        ("FPN", {"encoder_depth": 5}),
        ("DeepLabV3Plus", {"encoder_depth": 5}),
        ("FCN", {"encoder_depth": 5}),
        ("ComposedUnet", {"encoder_depth": 3, "decoder_channels": [16, 8, 8]}),
    ],
)
def test_maps_give_the_logits_of_every_decoder(arch: str, more: dict[str, Any]) -> None:
    torch.manual_seed(0)
    depth = {"encoder_depth": 3} | more
    if arch == "Unet":
        depth = {**DECODER}
    member = MemberConfig(arch=arch, encoder=ENCODER, decoder=depth, image_head=0.1)
    model = build_model(member, 1, 2, (64, 64)).eval()
    encoder, images = trunk(model.get_submodule(PLACE)), torch.randn(3, 1, 64, 64)
    layout = layout_of(model, encoder, images[:1])
    assert layout is not None
    with torch.no_grad():
        _, maps = maps_of(model, encoder, images)
        flat = layout.pack(maps)
        assert flat.dtype == torch.float16 and flat.shape == (3, layout.values)
        with given(encoder, layout.unpack(flat)):
            found = model(torch.zeros_like(images))
        expected = model(images)
    for one, other in zip(found, expected, strict=True):
        assert one is not None and other is not None
        assert float((one - other).abs().max()) <= TOLERANCE * float(other.abs().max())


def test_a_plain_transformer_keeps_its_own_maps() -> None:
    """Those before the pyramid, which learns."""
    member = MemberConfig(encoder="tu-vit_tiny_patch16_224", coordinates=True)
    model = build_model(member, 1, 1, (32, 32)).eval()
    encoder, images = trunk(model.get_submodule(PLACE)), torch.randn(2, 1, 32, 32)
    layout = layout_of(model, encoder, images)
    assert layout is not None and layout.values == 192 * 2 * 2


@pytest.mark.slow
def test_what_takes_more_than_maps_is_left_alone() -> None:
    dpt = MemberConfig(arch="DPT", encoder="tu-vit_tiny_patch16_224")
    model = build_model(dpt, 3, 1, (32, 32)).eval()
    images = torch.randn(1, 3, 32, 32)
    assert layout_of(model, trunk(model.get_submodule(PLACE)), images) is None


def test_folds_decoders_and_seeds_share_one_store(
    tmp_path: Path, file: str, made: list[str]
) -> None:
    tree = frozen_tree(file)
    one = tree["members"]["a"]
    link = {**one, "arch": "Linknet", "decoder": {"encoder_depth": 3}, "seed": 5}
    tree["members"] = {"a": one, "b": link}
    config, run = set_up(tmp_path, **tree)
    for name, fold in (("a", 0), ("a", 1), ("b", 1)):
        assert set_up_stage(member_of(config, run, name, fold), 0).batches.features is not None
    assert len(made) == 1
    # what the maps depend on makes another
    shown = {**tiny_tree()["input"], "mean": [0.3], "std": [0.2]}
    changes: list[dict[str, Any]] = [{"seed": 3}, {"augment": []}, {"input": shown}]
    for change in changes:
        other = parse_config(tiny_tree(**tree, **change), "test")
        set_up_stage(member_of(other, run), 0)
    assert len(set(made)) == len(made) == 4


def test_killed_while_it_computes_or_trains_it_goes_on_bit_for_bit(
    tmp_path: Path, file: str, monkeypatch: pytest.MonkeyPatch, made: list[str]
) -> None:
    tree = frozen_tree(file, swa=True)
    config, run = set_up(tmp_path / "whole", **tree)
    train_member(config, run.folder, 0, "a", 0)
    again, other = set_up(tmp_path / "killed", **tree)
    real, calls = trainer.train_step, 0

    def stop_once(*given: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            signal.raise_signal(signal.SIGTERM)
        return real(*given, **options)

    def stop_at_once(*given: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return maps_of(*given)

    stores = other.cache / "features"
    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(computed, "maps_of", stop_at_once)
        train_member(again, other.folder, 0, "a", 0)
    assert not [path for path in stores.iterdir() if path.is_dir()]
    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(trainer, "train_step", stop_once)
        train_member(again, other.folder, 0, "a", 0)
    (store,) = [path for path in stores.iterdir() if path.is_dir()]
    data = bytearray((store / "maps.f16").read_bytes())
    data[100] ^= 1
    (store / "maps.f16").write_bytes(data)  # and the disk has a bad day
    train_member(again, other.folder, 0, "a", 0)
    assert len(made) == 3
    assert "damaged: its checksum says" in log_of(other)
    assert_same_bits(run.member(0, "a", 0), other.member(0, "a", 0))


def test_a_plan_counts_what_lies_on_the_disk(tmp_path: Path, file: str) -> None:
    tree = frozen_tree(file)
    (stage,) = tree["stages"]
    tree["stages"] = [stage, {**stage, "views": 2}]
    tree["input"] = {**tiny_tree()["input"], "normalize": "train"}
    config, run = set_up(tmp_path, **tree)
    planned: dict[Any, Any] = {0: [("a", 0), ("a", 1)]}
    for _, fold in planned[0]:
        member = member_of(config, run, fold=fold)
        for number in range(2):
            assert set_up_stage(member, number).batches.features is not None
    lies = sum(path.stat().st_size for path in (run.cache / "features").rglob("maps.f16"))
    size = DataSize(37, 5, 32, 32)
    assert feature_bytes(config, size, model_sizes(config), planned) == lies > 0


@pytest.mark.slow
def test_two_ranks_read_as_one(tmp_path: Path, file: str, launch: Launch) -> None:
    tree = frozen_tree(file, views=2)
    one = train_here(tmp_path / "one", **tree)
    two = train_there(launch, tmp_path / "two", 2, **tree)
    assert losses(two) == pytest.approx(losses(one), abs=1e-5)
    run = Run(tmp_path / "two" / "run")
    said = log_of(run)
    assert said.count("maps of the frozen encoder: 37 images x 2 draws") == 1
    (maps,) = (run.cache / "features").rglob("maps.f16")  # from now on damaged: all of it
    whole = maps.read_bytes()
    maps.write_bytes(bytes(len(whole)))
    before = losses(two)
    shutil.rmtree(two.folder)
    process = launch(2, *arguments(tmp_path / "two"))
    output = process.communicate(timeout=PATIENCE_S)[0]
    assert process.returncode == 0, output
    assert losses(two) == before and maps.read_bytes() == whole
    assert "damaged: its checksum says" in log_of(run)


def test_where_maps_cannot_be_read_the_step_computes_them(tmp_path: Path, file: str) -> None:
    first, *_ = frozen_tree(file)["stages"]
    changes = {**frozen_tree(file), "stages": [{**first, "freeze_encoder": 0}, first]}
    config, run = set_up(tmp_path, **changes)
    member = member_of(config, run)
    assert set_up_stage(member, 1).batches.features is None
    assert computed._objection(member, 1, member.sampling(1)).startswith("it has learned in a")
    sample = member.manifest[member.rows[0]]
    object.__setattr__(sample, "origin", "pseudo")
    assert "made by models" in computed._objection(member, 0, member.sampling(0))


def test_where_nothing_is_random_there_is_one_draw(tmp_path: Path, file: str) -> None:
    shown = {"height": 32, "width": 32, "channels": 1, "fit": "resize"}
    config, run = set_up(tmp_path, **frozen_tree(file), augment=[], input=shown)
    found = set_up_stage(member_of(config, run), 0).batches.features
    assert found is not None and found.store.views == 1


def test_what_cannot_be_is_said(file: str) -> None:
    for stage, said in (({"views": 8}, "stages.0.views: 8: needs freeze_encoder: always"),):
        with pytest.raises(UserError) as caught:
            parse_config(tiny_tree(stages=[stage]), "test")
        assert said in str(caught.value)
    for changes in (cached({}, -1.0), frozen_tree(file, views=0)):
        with pytest.raises(UserError, match="from"):
            parse_config(tiny_tree(**changes), "test")
    assert parse_config(tiny_tree(**frozen_tree(file, views=None)), "test").stages[0].views is None
