"""What DeepSpeed's ZeRO cannot do (docs/deepspeed.md says why)."""

from __future__ import annotations

from collections.abc import Iterator

from distseg.config.schema import Config

# Optimizers that update each weight by itself, and so also shards of flattened weights (measured
# against whole weights: tests/training/test_zero.py). Those that look at layers cannot, nor those
# that count their steps per group (Adan, Lookahead): ZeRO-3 calls an optimizer once for each group.
ZERO_OPTIMIZERS = (
    "adamw", "adam", "sgd", "adabelief", "adadelta", "adamax", "adopt", "adoptw", "asgd", "laprop",
    "lion", "madgrad", "nadam", "nadamw", "radam", "rmsprop", "rprop", "sgdw",
)  # fmt: skip


def zero_mistakes(config: Config) -> Iterator[str]:
    """A line for each key that does not go with `compute.zero`."""
    compute, where = config.compute, f"compute.zero: {config.compute.zero}"
    if compute.offload and compute.zero < 2:
        yield f"compute.offload: true needs compute.zero: 2 or 3, not {compute.zero}"
    if not compute.zero:
        return
    if compute.zero == 3 and config.train.ema_decay is not None:
        yield (
            f"{where}: train.ema_decay: {config.train.ema_decay}: the average of every step needs "
            "whole weights, which stage 3 divides; use compute.zero: 2, or stages[].swa"
        )
    for number, round_config in enumerate(config.rounds):
        if round_config.has_mean_teacher:
            yield (
                f"{where}: rounds.{number}.kind: mean_teacher: its teacher is a whole model beside "
                "the divided one, on every rank; use compute.zero: 0"
            )
    if compute.compile:
        yield f"{where}: compute.compile: true: its hooks are not compiled; write false"
    if compute.precision == "fp16":
        yield (
            f"{where}: compute.precision: fp16 would make BatchNorm's statistics float16; valid: "
            "auto, bf16, fp32"
        )
    for name in config.members:
        for stage in [s for key in range(len(config.rounds)) for s in config.stages_of(name, key)]:
            plain = stage.optimizer.name.lower().replace("_", "").replace("-", "")
            if plain not in ZERO_OPTIMIZERS:
                yield (
                    f"{where}: optimizer.name: {stage.optimizer.name!r} does not work on weights "
                    f"that are cut into flat pieces. Valid: {', '.join(ZERO_OPTIMIZERS)}"
                )
            if stage.freeze_encoder not in (0, "always"):
                yield (
                    f"{where}: stages[].freeze_encoder: {stage.freeze_encoder}: gradients are "
                    "divided before a part of them could be left out; write 0 or always"
                )
