"""What DeepSpeed's ZeRO cannot do with a config, before anything is started (docs/deepspeed.md says
why). Each mistake is one UserError."""

from __future__ import annotations

from distseg.config.schema import Config
from distseg.records.errors import UserError

# Optimizers that update each weight by itself, and so also shards of flattened weights (measured
# against whole weights: tests/test_zero.py). Those that look at layers cannot, nor those that count
# their steps per group (Adan, Lookahead): ZeRO-3 calls an optimizer once for each group.
ZERO_OPTIMIZERS = (
    "adamw", "adam", "sgd", "adabelief", "adadelta", "adamax", "adopt", "adoptw", "asgd", "laprop",
    "lion", "madgrad", "nadam", "nadamw", "radam", "rmsprop", "rprop", "sgdw",
)  # fmt: skip


def check_zero(config: Config) -> None:
    """What ZeRO cannot do, before anything is started (docs/deepspeed.md says why)."""
    compute, where = config.compute, f"compute.zero: {config.compute.zero}"
    if compute.offload and compute.zero < 2:
        raise UserError(f"compute.offload: true needs compute.zero: 2 or 3, not {compute.zero}")
    if not compute.zero:
        return
    if compute.zero == 3 and config.train.ema_decay is not None:
        raise UserError(
            f"{where}: train.ema_decay: {config.train.ema_decay}: the average of every step needs "
            "whole weights, which stage 3 divides; use compute.zero: 2, or stages[].swa"
        )
    if compute.compile:
        raise UserError(f"{where}: compute.compile: true: its hooks are not compiled; write false")
    if compute.precision == "fp16":
        raise UserError(
            f"{where}: compute.precision: fp16 would make BatchNorm's statistics float16; valid: "
            "auto, bf16, fp32"
        )
    for name in config.members:
        for key in range(len(config.rounds)):
            for stage in config.stages_of(name, key):
                _check_zero_optimizer(stage.optimizer.name, where)
                if stage.freeze_encoder:
                    raise UserError(
                        f"{where}: stages[].freeze_encoder: {stage.freeze_encoder}: gradients are "
                        "divided before a part of them could be left out; write 0"
                    )


def _check_zero_optimizer(name: str, where: str) -> None:
    plain = name.lower().replace("_", "").replace("-", "")
    if plain not in ZERO_OPTIMIZERS:
        raise UserError(
            f"{where}: optimizer.name: {name!r} does not work on weights that are cut into flat "
            f"pieces. Valid: {', '.join(ZERO_OPTIMIZERS)}"
        )
