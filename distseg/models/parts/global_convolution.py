"""Global convolution (Peng et al. 2017, Large Kernel Matters, arXiv 1703.02719)."""

from __future__ import annotations

from torch import Tensor, nn

from distseg.models.parts.layers import conv_norm


class GlobalConvolution(nn.Module):
    """A kernel x kernel convolution as two pairs of strips: (B, into, H, W) -> (B, out, H, W)."""

    def __init__(self, into: int, out: int, kernel: int = 7) -> None:
        super().__init__()
        tall, wide, half = (kernel, 1), (1, kernel), kernel // 2
        self.left = nn.Sequential(
            nn.Conv2d(into, out, tall, padding=(half, 0)),
            nn.Conv2d(out, out, wide, padding=(0, half)),
        )
        self.right = nn.Sequential(
            nn.Conv2d(into, out, wide, padding=(0, half)),
            nn.Conv2d(out, out, tall, padding=(half, 0)),
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.left(x_BCHW) + self.right(x_BCHW)


class BoundaryRefinement(nn.Module):
    """x + two convolutions of x: (B, width, H, W) -> the same shape."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )  # fmt: skip

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW + self.body(x_BCHW)


class GlobalConvolutionJoin(nn.Module):
    """A decoder's map (B, into, H, W) and its skip (B, skip, H, W) -> (B, out, H, W).

    Both go through what the paper does to score maps, here on `out` channels. The sum is
    normalized, which the paper (from pretrained weights) does without.
    """

    def __init__(self, into: int, skip: int, out: int) -> None:
        super().__init__()
        self.skip = nn.Sequential(GlobalConvolution(skip, out), BoundaryRefinement(out))
        self.point = nn.Conv2d(into, out, 1)
        self.refine = nn.Sequential(BoundaryRefinement(out), conv_norm(out, out))

    def forward(self, x_BCHW: Tensor, skip_BCHW: Tensor) -> Tensor:
        return self.refine(self.point(x_BCHW) + self.skip(skip_BCHW))
