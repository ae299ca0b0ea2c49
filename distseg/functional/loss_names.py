"""Names and tasks of the losses, without torch: what the config checks against.

A spec is `{name: weight}` or `{name: {"weight": w, option: value, ...}}`, for example
`{"bce": 1.0, "lovasz": {"weight": 0.5, "activation": "elu"}}`. What each option may be is said by
the models of `config/losses.py`.
"""

from collections.abc import Mapping
from typing import Any

from distseg.functional.naming import unknown_name

TASKS = ("binary", "multilabel", "multiclass")
_SIGMOID_TASKS = ("binary", "multilabel")

LossSpec = Mapping[str, "float | Mapping[str, Any]"]

LOSS_TASKS: dict[str, tuple[str, ...]] = {
    "bce": _SIGMOID_TASKS,
    "dice": TASKS,
    "jaccard": TASKS,
    "boundary": TASKS,
    "focal": TASKS,
    "lovasz": _SIGMOID_TASKS,
    "lovasz_softmax": ("multiclass",),
    "cross_entropy": ("multiclass",),
}


def split_term(value: float | Mapping[str, Any]) -> tuple[float, dict[str, Any]]:
    """One value of a spec -> (weight, options); a mapping without a weight weighs 1."""
    if isinstance(value, Mapping):
        return value.get("weight", 1.0), {k: v for k, v in value.items() if k != "weight"}
    return value, {}


def losses_for(task: str) -> list[str]:
    """Names of the losses that a task can use."""
    return [name for name, tasks in LOSS_TASKS.items() if task in tasks]


def check_loss_spec(spec: LossSpec, task: str) -> None:
    """Raise ValueError for an unknown task or loss, or one that is not for the task."""
    if task not in TASKS:
        raise unknown_name("task", task, TASKS)
    for name in spec:
        if name not in LOSS_TASKS:
            raise unknown_name("loss", name, LOSS_TASKS)
        if name not in losses_for(task):
            valid = ", ".join(losses_for(task))
            raise ValueError(f"loss {name!r} is not for task {task!r} (valid: {valid})")
