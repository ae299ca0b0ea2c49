"""Optimizers by name, their parameter groups, and how a learning rate is set."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from distseg.config.training import OptimizerConfig
from distseg.functional.naming import nearest
from distseg.records.errors import UserError, unknown

# Torch's own optimizers that a plain loop can step. Its Muon takes matrices only; timm's, which is
# found by the same name, has a fallback.
TORCH_OPTIMIZERS: dict[str, type[Optimizer]] = {
    name.lower(): getattr(torch.optim, name)
    for name in (
        "ASGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam",
        "RMSprop", "Rprop", "SGD",
    )
}  # fmt: skip
LOOKAHEAD = "lookahead_"


def build_optimizer(cfg: OptimizerConfig, model: nn.Module) -> Optimizer:
    """The optimizer `cfg.name` of torch, else of timm; `lookahead_NAME` wraps either, with the
    options lookahead_alpha (share of the way, 0.5) and lookahead_k (steps, 6).

    It is fused where torch has that for the device of the parameters, so move the model first: a
    fused step is one kernel, and can skip itself on the device (see DdpEngine.step).
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


def optimizer_names() -> list[str]:
    """All optimizers: torch's, and timm's of other names."""
    from distseg.models.optimizers import timm_optimizers  # slow to import

    return list(dict.fromkeys((*TORCH_OPTIMIZERS, *timm_optimizers())))


def _optimizer_class(name: str) -> Callable[..., Optimizer]:
    plain = name.replace("_", "").replace("-", "")
    if plain in TORCH_OPTIMIZERS:
        return TORCH_OPTIMIZERS[plain]
    from distseg.models.optimizers import timm_optimizer, timm_optimizers  # slow to import

    if plain not in timm_optimizers():
        raise unknown("optimizer", name, optimizer_names(), "optimizer.name: ")
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
    """Groups to try: an optimizer writes its defaults into them, also when it then refuses them."""
    return [dict(group) for group in groups]


def parameter_groups(cfg: OptimizerConfig, model: nn.Module) -> list[dict[str, Any]]:
    """Up to four parameter groups: encoder and decoder (with heads), each with and without weight
    decay, in that order. A pyramid on a plain encoder is the decoder's: no weights of the hub fill
    it. Empty groups and parameters that need no gradient are left out."""
    undecayed = _undecayed(model)
    found: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parts = name.split(".")[:3]
            in_encoder = "encoder" in parts[:2] and "pyramid" not in parts
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
    """Names of the parameters without weight decay: norms, biases and other vectors, and what
    timm's models list themselves (position embeddings, class tokens)."""
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
