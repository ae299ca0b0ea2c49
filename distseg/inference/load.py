"""Members that have been trained, loaded from their snapshots to predict."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from distseg.config.data import InputConfig
from distseg.config.load import parse_section
from distseg.config.member import MemberConfig
from distseg.data.fit import Fit
from distseg.inference.evaluate import Normalizer, canvas_key, loader, native_logits, tta_logits
from distseg.models import checkpoint
from distseg.models.build import build_model


@torch.inference_mode(False)  # building a model asks which parameters its outputs depend on
@torch.enable_grad()
def load_snapshot_model(
    path: Path, device: torch.device, channels_last: bool
) -> tuple[nn.Module, dict[str, Any]]:
    """The model of a snapshot, in eval mode on `device`, and the snapshot's record."""
    state, record = checkpoint.load_snapshot(path)
    size = parse_section(InputConfig, record["input"], str(path))
    model = build_model(
        parse_section(MemberConfig, record["member"], str(path)),
        size.channels,
        record["num_outputs"],
        (size.height, size.width),
        pretrained=False,
    )
    model.load_state_dict(state)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    return model.to(device).eval(), record


@dataclass(frozen=True)
class TrainedMember:
    """The snapshots of a member, and the input that they were trained on.

    canvas: names the uint8 canvas that its images lie on; members of one name share it.
    """

    snapshots: list[nn.Module]
    fit: Fit
    normalizer: Normalizer
    canvas: str

    @classmethod
    def load(
        cls, snapshots: Sequence[Path], device: torch.device, channels_last: bool
    ) -> TrainedMember:
        loaded = [load_snapshot_model(path, device, channels_last) for path in snapshots]
        size = InputConfig.model_validate(loaded[0][1]["input"])
        normalizer = Normalizer(size, device, channels_last)
        return cls([model for model, _ in loaded], Fit(size), normalizer, canvas_key(size))

    def native_logits(
        self,
        canvas_BCHW: Tensor,
        sizes: Sequence[tuple[int, int]],
        tta: Sequence[str],
        autocast: Callable[[], AbstractContextManager[None]],
    ) -> list[Tensor]:
        """The mean over snapshots and views for each image, float32 (C, h, w) at its own size.
        canvas_BCHW: uint8, on the member's device."""
        images = self.normalizer(canvas_BCHW)
        mean = torch.stack(tta_logits(self.snapshots, images, tta, autocast, self.fit)).mean(0)
        return native_logits(mean, self.fit, sizes)


def decode_batches(
    members: Sequence[TrainedMember],
    batches: Sequence[list[int]],
    dataset: Callable[[Fit], Dataset[Any]],
    workers: int,
    device: torch.device,
) -> Iterator[tuple[list[int], dict[str, Tensor], dict[str, Any]]]:
    """Each batch decoded once for each canvas, however many members lie on it: its indices, uint8
    (B, C, H, W) on the device by canvas, and the first dataset's own words on the images."""
    fits = {member.canvas: member.fit for member in members}
    loaders = [
        loader(dataset(fit), batches, workers, device, persistent=False) for fit in fits.values()
    ]
    for indices, *found in zip(batches, *loaders, strict=True):
        images = [one["image"].to(device, non_blocking=True) for one in found]
        yield indices, dict(zip(fits, images, strict=True)), found[0]
