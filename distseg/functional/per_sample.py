"""What every loss shares: checked shapes, ignored pixels, float32, and the mean of each sample."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

LossFunction = Callable[..., Tensor]


def per_sample(loss: LossFunction) -> LossFunction:
    """Check shapes, blank ignored pixels, and run `loss` in float32 with autocast off."""

    @functools.wraps(loss)
    def run(
        logits_BCHW: Tensor, target: Tensor, valid_BHW: Tensor | None = None, **options: Any
    ) -> Tensor:
        _check_shapes(logits_BCHW, target, valid_BHW)
        with torch.autocast(logits_BCHW.device.type, enabled=False):
            logits = logits_BCHW.float()
            target = target.float() if target.dim() == 4 else target.long()
            if valid_BHW is None:
                valid_BHW = torch.ones_like(logits[:, 0], dtype=torch.bool)
            else:
                # filling, not multiplying by 0: NaN * 0 is NaN, and 255 is no class
                ignored = ~valid_BHW
                logits = logits.masked_fill(ignored[:, None], 0.0)
                target = target.masked_fill(ignored[:, None] if target.dim() == 4 else ignored, 0)
            return loss(logits, target, valid_BHW, **options)

    return run


def _check_shapes(logits: Tensor, target: Tensor, valid: Tensor | None) -> None:
    if logits.dim() != 4:
        raise ValueError(f"logits must be (B, C, H, W), not {tuple(logits.shape)}")
    pixels = (logits.shape[0], *logits.shape[2:])
    fits = target.shape == (logits.shape if target.is_floating_point() else pixels)
    if not fits:
        kind = f"{target.dtype} {tuple(target.shape)}"
        raise ValueError(
            f"target {kind} does not fit logits {tuple(logits.shape)}: it must be float"
            f" {tuple(logits.shape)}, or for multiclass integer {pixels}"
        )
    if valid is not None and (valid.dtype != torch.bool or valid.shape != pixels):
        raise ValueError(f"valid must be bool {pixels}, not {valid.dtype} {tuple(valid.shape)}")


def pixel_mean(values_BCHW: Tensor, valid_BHW: Tensor) -> Tensor:
    """The mean over valid pixels and classes of each sample."""
    total = (values_BCHW * valid_BHW[:, None]).flatten(1).sum(1)
    return total / (valid_BHW.flatten(1).sum(1).clamp_min(1) * values_BCHW.shape[1])


def class_vector(values: float | Sequence[float], logits_BCHW: Tensor, what: str) -> Tensor:
    """A number, or one per class, as a tensor that broadcasts over (C, H, W)."""
    if isinstance(values, Sequence) and len(values) != logits_BCHW.shape[1]:
        raise ValueError(f"{what} has {len(values)} numbers for {logits_BCHW.shape[1]} classes")
    many = tuple(values) if isinstance(values, Sequence) else (values,)
    return _column(many, logits_BCHW.device)


@functools.lru_cache(maxsize=64)
def _column(values: tuple[float, ...], device: torch.device) -> Tensor:
    """float32 (C, 1, 1). Sent to the device once: while a CUDA graph is captured, nothing can be.
    Not as an inference tensor, if that is where it is first asked for: training asks, too."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.float32, device=device).view(-1, 1, 1)


def one_hot(target_BHW: Tensor, num_classes: int) -> Tensor:
    return F.one_hot(target_BHW, num_classes).movedim(-1, 1).float()
