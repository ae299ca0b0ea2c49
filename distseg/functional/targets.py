"""What a loss compares logits with."""

from torch import Tensor

from distseg.functional.metrics import VOID


def training_target(target_BKHW: Tensor, task: str) -> tuple[Tensor, Tensor]:
    """The loss's target, and which pixels count, of masks as the data cache holds them.

    Args:
        target_BKHW: uint8; 0 or 1 per class, or with K = 1 a class number for "multiclass"; VOID
            (255) in every K where a pixel counts nowhere.

    Returns:
        (target, valid): float32 (B, K, H, W) of 0 and 1, for "multiclass" int64 (B, H, W) with
        VOID kept; and bool (B, H, W), False at VOID.
    """
    valid = target_BKHW[:, 0] != VOID
    if task == "multiclass":
        return target_BKHW[:, 0].long(), valid
    return (target_BKHW == 1).float(), valid
