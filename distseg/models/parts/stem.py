"""An encoder that begins at full size: for small images, as TGS winners did with 101 x 101."""

from __future__ import annotations

from torch import nn


def keep_full_size(encoder: nn.Module) -> None:
    """In place: the first strided convolution steps by 1, and the first pooling does nothing.

    No weight changes its shape, so pretrained ones fit. The type of a pooling stays: some
    encoders count them.

    Raises:
        ValueError: the encoder has neither.
    """
    conv = next((m for m in encoder.modules() if isinstance(m, nn.Conv2d) and _strided(m)), None)
    pool = next((m for m in encoder.modules() if isinstance(m, nn.MaxPool2d) and _strided(m)), None)
    if conv is None and pool is None:
        raise ValueError("stride1_stem: the encoder has no strided convolution and no pooling")
    if conv is not None:
        conv.stride = (1, 1)
        if conv.kernel_size[0] % 2 == 0:  # a patch: without padding it would cut the image's edge
            conv.padding = "same"
    if pool is not None:
        pool.kernel_size, pool.stride, pool.padding, pool.ceil_mode = 1, 1, 0, False


def _strided(module: nn.Conv2d | nn.MaxPool2d) -> bool:
    stride = module.stride if isinstance(module.stride, tuple) else (module.stride,)
    return max(stride) > 1
