"""Optimizers by name, learning-rate schedules as pure functions of the step, and EMA."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from distseg.config.training import OptimizerConfig, ScheduleConfig
from distseg.models.checkpoint import unwrap
from distseg.records.errors import UserError, nearest, unknown

# Torch's own that a plain loop can step (its Muon takes matrices only: timm's has a fallback).
TORCH_OPTIMIZERS: dict[str, type[Optimizer]] = {
    name.lower(): getattr(torch.optim, name)
    for name in (
        "ASGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam",
        "RMSprop", "Rprop", "SGD",
    )
}  # fmt: skip
LOOKAHEAD = "lookahead_"
ONECYCLE_START, ONECYCLE_RISE = 1 / 25, 0.3  # as in torch.optim.lr_scheduler.OneCycleLR


def build_optimizer(cfg: OptimizerConfig, model: nn.Module) -> Optimizer:
    """The optimizer `cfg.name` of torch, else of timm; `lookahead_NAME` wraps either, with the
    options lookahead_alpha (share of the way, 0.5) and lookahead_k (steps, 6).

    Fused where torch has that for the device of the parameters, so move the model first.
    Every group holds `lr_scale`, its learning rate at factor 1 (see set_lr). UserError for an
    unknown name or option.
    """
    name, options = cfg.name.lower(), dict(cfg.options)
    wrapped = name.startswith(LOOKAHEAD)
    outer = {
        key: options.pop(f"{LOOKAHEAD}{key}")
        for key in ("alpha", "k")
        if wrapped and f"{LOOKAHEAD}{key}" in options
    }
    make = _optimizer_class(name.removeprefix(LOOKAHEAD))
    optimizer = _construct(make, cfg, parameter_groups(cfg, model), options)
    if wrapped:
        from distseg.models.optimizers import Lookahead

        try:
            optimizer = Lookahead(optimizer, **outer)
        except (TypeError, ValueError) as error:
            raise UserError(f"optimizer.options: {outer}: {error}") from None
    return optimizer


def _optimizer_class(name: str) -> Callable[..., Optimizer]:
    plain = name.replace("_", "").replace("-", "")
    if plain in TORCH_OPTIMIZERS:
        return TORCH_OPTIMIZERS[plain]
    from distseg.models.optimizers import timm_optimizer, timm_optimizers  # slow to import

    if plain not in timm_optimizers():
        valid = dict.fromkeys((*TORCH_OPTIMIZERS, *timm_optimizers()))
        raise unknown("optimizer", name, valid, "optimizer.name: ")
    return timm_optimizer(plain)


def _construct(
    make: Callable[..., Optimizer],
    cfg: OptimizerConfig,
    groups: list[dict[str, Any]],
    options: dict[str, Any],
) -> Optimizer:
    valid = [p for p in inspect.signature(make).parameters if p not in ("params", "lr", "kwargs")]
    for key in options:
        if key not in valid or key == "weight_decay":
            close = nearest(key, valid)
            hint = f" Did you mean {close!r}?" if close else ""
            raise UserError(
                f"optimizer.options.{key}: {cfg.name} has no such option here.{hint} "
                f"Valid: {', '.join(v for v in valid if v != 'weight_decay')}"
            )
    try:
        if "fused" in valid and not {"fused", "foreach", "differentiable"} & options.keys():
            with contextlib.suppress(RuntimeError):  # no fused form on this device
                return make(_copies(groups), lr=cfg.lr, fused=True, **options)
        return make(groups, lr=cfg.lr, **options)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"optimizer: {cfg.name} with {options}: {error}") from None


def _copies(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """An optimizer writes its defaults into the groups, also when it then refuses them."""
    return [dict(group) for group in groups]


def parameter_groups(cfg: OptimizerConfig, model: nn.Module) -> list[dict[str, Any]]:
    """Encoder and decoder (with heads), each with and without weight decay, in that order;
    empty groups and frozen parameters are left out."""
    bare = unwrap(model)
    undecayed = _undecayed(bare)
    found: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in bare.named_parameters():
        if parameter.requires_grad:
            in_encoder = "encoder" in name.replace("_orig_mod.", "").split(".")[:2]
            found.setdefault((in_encoder, name not in undecayed), []).append(parameter)
    groups = []
    for in_encoder, decayed in ((True, True), (True, False), (False, True), (False, False)):
        lr = cfg.encoder_lr if in_encoder and cfg.encoder_lr is not None else cfg.lr
        group = {
            "params": found.get((in_encoder, decayed), []),
            "lr": lr,
            "lr_scale": lr,
            "weight_decay": cfg.weight_decay if decayed else 0.0,
            "part": "encoder" if in_encoder else "decoder",
        }
        if group["params"]:
            groups.append(group)
    return groups


def _undecayed(model: nn.Module) -> set[str]:
    """Names of norms, biases and other vectors, and of what timm's models list themselves
    (position embeddings, class tokens)."""
    names = {name for name, p in model.named_parameters() if p.ndim <= 1 or name.endswith(".bias")}
    for prefix, module in model.named_modules():
        own = [name for name, _ in module.named_parameters(prefix, recurse=False)]
        if "Norm" in type(module).__name__:
            names.update(own)
        listed = getattr(module, "no_weight_decay", None)
        if callable(listed):
            names.update(f"{prefix}.{name}" if prefix else name for name in listed())
    return names


def set_lr(optimizer: Optimizer, factor: float) -> None:
    """Every group's learning rate becomes `factor` times its own at factor 1."""
    for group in optimizer.param_groups:
        lr = group["lr_scale"] * factor
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)  # a captured or compiled step reads the tensor
        else:
            group["lr"] = lr


class Schedule:
    """Learning-rate factor (share of the peak) by step, and ReduceLROnPlateau's memory."""

    def __init__(self, cfg: ScheduleConfig, steps_per_epoch: int) -> None:
        assert steps_per_epoch > 0
        self.cfg = cfg
        self.cycle_steps = cfg.epochs_per_cycle * steps_per_epoch
        self.warmup_steps = min(cfg.warmup_epochs * steps_per_epoch, self.cycle_steps - 1)
        self._scale = 1.0  # plateau
        self._best: float | None = None
        self._bad = 0

    def lr_factor(self, step: int) -> float:
        """Factor of the update number `step` (0 is the first of the stage). Past the end it
        stays at the last one's. Apart from plateau it depends on `step` only."""
        total = self.cfg.cycles * self.cycle_steps
        cycle, position = divmod(min(max(step, 0), total - 1), self.cycle_steps)
        floor = self.cfg.min_lr_scale
        peak = max(floor, self.cfg.restart_decay**cycle)
        if self.cfg.kind == "noam":  # Vaswani et al. 2017, with its peak at 1
            rise = max(1.0, self.warmup_steps)
            return min((position + 1) / rise, math.sqrt(rise / (position + 1)))
        if self.cfg.kind == "onecycle":
            return self._onecycle(position, peak)
        warmup = self.warmup_steps if cycle == 0 else 0.0
        if position < warmup:
            return (position + 1) / (warmup + 1) * self._scale
        if self.cfg.kind != "cosine":
            return self._scale
        return _cosine(peak, floor, (position - warmup) / (self.cycle_steps - warmup))

    def _onecycle(self, position: int, peak: float) -> float:
        """Up from peak/25 over the warm-up (without one: 30 % of the cycle), then down; both
        halves are cosines (Smith & Topin 2018)."""
        rise = self.warmup_steps or ONECYCLE_RISE * self.cycle_steps
        if position < rise:
            return _cosine(peak * ONECYCLE_START, peak, position / rise)
        return _cosine(peak, self.cfg.min_lr_scale, (position - rise) / (self.cycle_steps - rise))

    def observe(self, value: float) -> bool:
        """plateau: hand over the watched metric after an evaluation. True when the learning
        rate falls: more than `patience` values in a row without a gain (NaN is none)."""
        if self.cfg.kind != "plateau":
            return False
        sign = 1 if self.cfg.mode == "max" else -1
        if math.isfinite(value) and (self._best is None or sign * value > sign * self._best):
            self._best, self._bad = float(value), 0
            return False
        self._bad += 1
        if self._bad <= self.cfg.patience:
            return False
        before, self._bad = self._scale, 0
        self._scale = max(self._scale * self.cfg.factor, self.cfg.min_lr_scale)
        return self._scale < before

    def state(self) -> dict[str, Any]:
        """What `load` needs, as JSON values."""
        return {"scale": self._scale, "best": self._best, "bad": self._bad}

    def load(self, state: dict[str, Any]) -> None:
        self._scale, self._best, self._bad = state["scale"], state["best"], state["bad"]


def _cosine(start: float, end: float, share: float) -> float:
    """From `start` to `end` along half a cosine; share 0..1 (Loshchilov & Hutter 2017)."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * share))


class Ema:
    """Exponential moving average of a model's parameters, in float32 on their devices.

    Buffers (BatchNorm's statistics) are themselves averages: the model's current ones serve.
    The decay warms up as min(decay, (1 + n) / (10 + n)) over the updates n, so that the random
    start is soon forgotten in a short run.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.num_updates = 0
        self._shadow = {
            name: parameter.detach().to(torch.float32, copy=True)
            for name, parameter in unwrap(model).named_parameters()
        }

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Call after each optimizer update."""
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        self.num_updates += 1
        current = [p.detach().float() for p in self._parameters(model)]
        torch._foreach_lerp_(list(self._shadow.values()), current, 1 - decay)

    @contextlib.contextmanager
    def swap(self, model: nn.Module) -> Iterator[None]:
        """Within the block, `model` has the averaged parameters; after it, its own again."""
        parameters = self._parameters(model)
        own = [parameter.detach().clone() for parameter in parameters]
        with torch.no_grad():
            torch._foreach_copy_(parameters, list(self._shadow.values()))
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(parameters, own)

    def _parameters(self, model: nn.Module) -> list[Tensor]:
        named = dict(unwrap(model).named_parameters())
        assert named.keys() == self._shadow.keys(), "not the model of this average"
        return [named[name] for name in self._shadow]

    def tensors(self) -> dict[str, Tensor]:
        """For save_state: the averages by parameter name, and `ema.num_updates`. (Weights for
        a snapshot: clean_state_dict(model) within swap(model).)"""
        return {**self._shadow, "ema.num_updates": torch.tensor(self.num_updates)}

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take back what tensors() gave."""
        self.num_updates = int(tensors["ema.num_updates"])
        for name, shadow in self._shadow.items():
            shadow.copy_(tensors[name])
