"""The feature maps of a member's frozen encoder: computed once for every fold, decoder and seed."""

from __future__ import annotations

import hashlib
import json
import logging

import torch
from torch import Tensor, nn

from distseg.data.dataset import DrawnImages, TrainSet
from distseg.data.features import (
    Features,
    FeatureStore,
    StoreWriter,
    Wanted,
    feature_store,
    open_store,
)
from distseg.data.loader import loader
from distseg.data.prepare import cache_folder
from distseg.data.sampling import Sampling
from distseg.distributed import first_of_machine
from distseg.models.frozen import Layout, fingerprint, layout_of, maps_of
from distseg.records.errors import Damaged
from distseg.training.batches import train_set
from distseg.training.member import Member
from distseg.training.stopping import Interrupted

logger = logging.getLogger(__name__)
BYTES_PER_GB = 1e9


def stage_features(member: Member, number: int, sampling: Sampling) -> Features | None:
    """The feature maps that a stage reads, all ranks; None where it computes them in each step. The
    log says once why, unless the config asks for it. Interrupted: a signal came."""
    stage, limit = member.stages[number], member.config.data.feature_cache_gb
    if stage.freeze_encoder != "always" or stage.views is None or not limit:
        return None
    if number not in member.features:
        found = _objection(member, number, sampling) or _features(member, number)
        if isinstance(found, str):
            said = f"computed in each step: {found}"
        else:
            said = f"read from {found.store.folder}"
        if member.main:
            logger.info("the frozen encoder's maps are %s", said)
        member.features[number] = None if isinstance(found, str) else found
    return member.features[number]


def _objection(member: Member, number: int, sampling: Sampling) -> str:
    """Why a stage cannot read maps from disk; "" where it can."""
    compute, before = member.config.compute, member.stages[:number]
    if compute.zero or compute.compile:
        key = "compute.zero" if compute.zero else "compute.compile"
        return f"{key} takes the model as a whole"
    if any(stage.freeze_encoder != "always" for stage in before):
        return "it has learned in a stage before, in this fold alone"
    if member.teacher is not None:
        return "its mean teacher sees the images"
    rows = {*sampling.rows, *sampling.mixed}
    if any(member.manifest[row].origin != "labeled" for row in rows):
        return "some labels of this round were made by models"
    return ""


def _features(member: Member, number: int) -> Features | str:
    """The maps of a stage, or why there are none."""
    dataset = train_set(member, number)
    encoder, draws = member.frozen_encoder, dataset.draws
    assert encoder is not None and draws is not None
    channels, (height, width) = member.input_config.channels, dataset.fit.size
    canvas = (channels, height, width)
    was_training = member.model.training
    member.model.eval()
    try:
        with member.accelerator.autocast():
            layout = layout_of(member.model, encoder, _probe(member, canvas))
        if layout is None:
            return f"{member.model_config.arch} takes more than maps of its encoder"
        ids = list(member.cache.index)
        wanted = Wanted(_key(member, number, dataset, layout), ids, draws.views, layout.values)
        store = _shared_store(member, dataset, encoder, layout, wanted)
    finally:
        member.model.train(was_training)
    return store if isinstance(store, str) else Features(store, layout, canvas)


def _shared_store(
    member: Member, dataset: TrainSet, encoder: nn.Module, layout: Layout, wanted: Wanted
) -> FeatureStore | str:
    """All ranks: the store, or why there is none. The first rank of each machine checks or makes
    it; the others open it only then: they would map a damaged one, and keep it."""
    folder, found = cache_folder(member.config, member.run) / "features", list[FeatureStore]()

    def take() -> str:
        try:
            store = feature_store(
                folder, wanted, member.config.data.feature_cache_gb * BYTES_PER_GB,
                lambda writer: _fill(member, dataset, encoder, layout, writer),
                waiting=lambda: _leave_if_stopped(member),
            )  # fmt: skip
        except (OSError, OverflowError, Damaged) as error:
            return str(error) or type(error).__name__
        if isinstance(store, str):
            return store
        found.append(store)
        return ""

    problem = first_of_machine(member.accelerator, take, lambda: _leave_if_stopped(member))
    if problem:
        return problem
    try:
        return found[0] if found else open_store(folder, wanted)
    except (OSError, Damaged) as error:
        return str(error)


def _probe(member: Member, canvas: tuple[int, int, int]) -> Tensor:
    """Noise as an image, normalized, (1, C, H, W); torch's own generator stays as it is."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (1, *canvas), dtype=torch.uint8, generator=generator)
    return member.normalizer(noise.to(member.accelerator.device))


def _fill(
    member: Member, dataset: TrainSet, encoder: nn.Module, layout: Layout, writer: StoreWriter
) -> None:
    """Compute the maps of all draws of all images. OverflowError: a number that float16 lacks."""
    wanted, size = writer.wanted, member.config.predict.batch_size
    total, device = len(wanted.ids) * wanted.views, member.accelerator.device
    logger.info(
        "maps of the frozen encoder: %d images x %d draws, %.2f GB in %s",
        len(wanted.ids), wanted.views, wanted.bytes / BYTES_PER_GB, writer.folder.parent,
    )  # fmt: skip
    batches = [list(range(first, min(first + size, total))) for first in range(0, total, size)]
    images = DrawnImages(dataset, wanted.ids)
    for positions, batch in zip(
        batches, loader(images, batches, member.workers, device, persistent=False), strict=True
    ):
        _leave_if_stopped(member)
        member.progress.at("features", positions[0], total)
        with member.accelerator.autocast():
            shown = member.normalizer(batch["image"].to(device, non_blocking=True))
            _, maps = maps_of(member.model, encoder, shown)
        flat_NL = layout.pack(maps)
        if not torch.isfinite(flat_NL).all():
            raise OverflowError("they hold numbers that float16 does not have")
        writer.add(flat_NL.cpu().numpy())


def _leave_if_stopped(member: Member) -> None:
    """Interrupted: a signal came. The state on disk is that of the stage's start."""
    if member.stop is not None and member.stop.number is not None:
        raise Interrupted(128 + member.stop.number)


def _key(member: Member, number: int, dataset: TrainSet, layout: Layout) -> str:
    """A hash of all that the maps depend on: pixels, how they are drawn and normalized, the
    encoder, and what computes it."""
    config, stage, encoder = member.config, member.stages[number], member.frozen_encoder
    normalizer, accelerator, draws = member.normalizer, member.accelerator, dataset.draws
    assert encoder is not None and draws is not None
    steps = config.augment if stage.augment is None else stage.augment
    parts = [
        member.cache.folder.name, draws.seed, [step.model_dump(mode="json") for step in steps],
        config.data.depths is not None, dataset.fit.config.model_dump(mode="json"),
        normalizer.mean.flatten().tolist(), normalizer.std.flatten().tolist(), normalizer.median,
        fingerprint(encoder), repr(layout), accelerator.mixed_precision, accelerator.device.type,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
