"""Guided upsampling (Mazzini 2018, Guided Upsampling Network, arXiv 1807.07466)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distseg.models.parts.layers import Size, resize


class GuidedUpsampling(nn.Module):
    """Bilinear upsampling that reads beside each pixel: (B, width, h, w) -> (B, width, *size).

    A convolution gives each new pixel an offset, in pixels of the small map, so that edges need
    not be smeared. It begins at 0, which is plain bilinear upsampling.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.offset = nn.Conv2d(width, 2, 3, padding=1)

    def start(self) -> None:
        """Offsets of 0; after whatever else has set the weights."""
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)  # type: ignore[arg-type]

    def forward(self, x_BCHW: Tensor, size: Size) -> Tensor:
        height, width = x_BCHW.shape[-2:]
        offset = self.offset(resize(x_BCHW, size)).float()  # (B, 2, *size), x before y
        scale = torch.tensor([2 / width, 2 / height], device=offset.device)
        grid = _centers(size, offset.device) + offset.permute(0, 2, 3, 1) * scale
        found = F.grid_sample(x_BCHW.float(), grid, padding_mode="border", align_corners=False)
        return found.to(x_BCHW.dtype)


def _centers(size: Size, device: torch.device) -> Tensor:
    """(H, W, 2): x and y of the pixels' centers, -1..1 from border to border."""
    ys, xs = (
        (torch.arange(length, device=device, dtype=torch.float32) * 2 + 1) / length - 1
        for length in size
    )
    return torch.stack(torch.meshgrid(xs, ys, indexing="xy"), dim=-1)
