"""Object context pooling, pyramid form (Yuan & Wang 2018, OCNet ASP-OC, arXiv 1809.00916)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distseg.models.parts.layers import conv_norm

# 12, 24 and 36 at a stride of 8 in the paper: as many pixels of the image at a stride of 32
RATES = (3, 6, 9)


class PyramidObjectContext(nn.Module):
    """(B, into, H, W) -> (B, out, H, W): object context beside four dilated convolutions."""

    def __init__(self, into: int, out: int) -> None:
        super().__init__()
        inner = max(2, out // 2)
        self.context = nn.Sequential(conv_norm(into, inner), ObjectContext(inner))
        self.point = conv_norm(into, inner, 1)
        self.dilated = nn.ModuleList(conv_norm(into, inner, dilation=rate) for rate in RATES)
        self.merge = conv_norm(inner * (2 + len(RATES)), out, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        maps = [self.context(x_BCHW), self.point(x_BCHW), *(conv(x_BCHW) for conv in self.dilated)]
        return self.merge(torch.cat(maps, dim=1))


class ObjectContext(nn.Module):
    """Each pixel gets the mean of all pixels' values, weighted by how alike their keys are.

    (B, width, H, W) -> the same shape, in memory (H * W)^2. Key and query are one map.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = max(1, width // 2)
        self.key = conv_norm(width, inner, 1)
        self.value = nn.Conv2d(width, inner, 1)
        self.out = nn.Conv2d(inner, width, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        key, value = self.key(x_BCHW).flatten(2), self.value(x_BCHW).flatten(2)
        # float32: under autocast a softmax over many alike keys loses what tells them apart
        alike = (key.mT.float() @ key.float()) * key.shape[1] ** -0.5
        context = value @ alike.softmax(-1).mT.to(value.dtype)
        return self.out(context.unflatten(2, x_BCHW.shape[-2:]))
