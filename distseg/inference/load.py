"""Models from the snapshots of finished members, and the images that they predict, in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from distseg.config.data import InputConfig
from distseg.config.load import parse_section
from distseg.config.member import MemberConfig
from distseg.data.fit import Fit
from distseg.data.loader import loader
from distseg.functional.metrics import VOID
from distseg.inference.forward import Autocast, Normalizer, Predictor
from distseg.models import checkpoint
from distseg.models.build import build_model, one_line
from distseg.records.errors import Damaged, UserError


@torch.inference_mode(False)  # building a model asks which parameters its outputs depend on
@torch.enable_grad()
def load_snapshot_model(
    path: Path, device: torch.device, channels_last: bool, member: tuple[str, int] | None = None
) -> tuple[nn.Module, InputConfig]:
    """The model of a snapshot, in eval mode on `device`, and the input that it was trained on.

    The record goes through the config's own checks: a snapshot from somebody else can ask for
    nothing that a config cannot. member: the (name, fold) that it must be of.

    UserError: it asks for such a thing, the file is missing or damaged, or it is another member's:
    its score would be that of images that it was trained on.
    """
    state, record = checkpoint.load_snapshot(path)
    found = record.get("name"), record.get("fold")
    if member not in (None, found):
        raise UserError(f"{path}: is the snapshot of {found}, not of {member}; put it back")
    num_outputs = record.get("num_outputs")
    if not isinstance(num_outputs, int) or not 1 <= num_outputs <= VOID:
        raise UserError(f"{path}: its record says num_outputs: {num_outputs!r}; valid: 1..{VOID}")
    input_config = parse_section(InputConfig, record.get("input"), str(path))
    model = build_model(
        parse_section(MemberConfig, record.get("member"), str(path)),
        input_config.channels,
        num_outputs,
        (input_config.height, input_config.width),
        pretrained=False,
    )
    try:
        model.load_state_dict(state)
    except RuntimeError as error:  # other names or shapes than its record builds
        raise Damaged(path, one_line(error), "remove it, and train the member again") from None
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    return model.to(device).eval(), input_config


def load_predictor(
    snapshots: Sequence[Path],
    device: torch.device,
    channels_last: bool,
    autocast: Autocast,
    *,
    member: tuple[str, int] | None = None,
) -> Predictor:
    """The models of a member's snapshots, one or more, with the input they were trained on.
    member: see `load_snapshot_model`."""
    loaded = [load_snapshot_model(path, device, channels_last, member) for path in snapshots]
    models, inputs = zip(*loaded, strict=True)
    normalizer = Normalizer(inputs[0], device, channels_last)
    return Predictor(list(models), Fit(inputs[0]), normalizer, autocast)


def decode_batches(
    predictors: Sequence[Predictor],
    batches: Sequence[list[int]],
    dataset: Callable[[Fit], Dataset[Any]],
    workers: int,
    device: torch.device,
) -> Iterator[tuple[list[int], dict[str, Tensor], dict[str, Any]]]:
    """Each batch decoded once for each canvas, however many predictors share it.

    Args:
        batches: indices of each batch; see `data.loader.canvas_batches`.
        dataset: the images on the canvas of a fit, by index, each a dict with "image" uint8
            (C, H, W).

    Yields:
        (indices, images uint8 (B, C, H, W) on `device` by `Predictor.canvas`, what the dataset of
        the first canvas says about the images besides).
    """
    fits = {predictor.canvas: predictor.fit for predictor in predictors}
    loaders = [
        loader(dataset(fit), batches, workers, device, persistent=False) for fit in fits.values()
    ]
    for indices, *found in zip(batches, *loaders, strict=True):
        images = [one["image"].to(device, non_blocking=True) for one in found]
        yield indices, dict(zip(fits, images, strict=True)), found[0]
