"""Names, tasks and options of the losses, without torch: what the config checks against.

A spec is `{name: weight}` or `{name: {"weight": w, option: value, ...}}`, for example
`{"bce": 1.0, "lovasz": {"weight": 0.5, "activation": "elu"}}`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distseg.functional.naming import unknown_name

TASKS = ("binary", "multilabel", "multiclass")
_SIGMOID_TASKS = ("binary", "multilabel")

LossSpec = Mapping[str, "float | Mapping[str, Any]"]


@dataclass(frozen=True, kw_only=True)
class Option:
    """What a loss option accepts: a choice, a bool (by its default), or numbers in [low, high].

    `per_class` also allows a list with one number per class, `only_list` nothing but a list.
    """

    default: Any
    doc: str
    low: float = 0.0
    high: float = math.inf
    choices: tuple[str, ...] = ()
    per_class: bool = False
    only_list: bool = False


_SMOOTHING = Option(default=0.0, high=1.0, doc="share of the label spread evenly over all classes")
_SMOOTH = Option(default=0.0, doc="pixels added above and below the fraction")

LOSS_OPTIONS: dict[str, dict[str, Option]] = {
    "bce": {
        "label_smoothing": _SMOOTHING,
        "pos_weight": Option(default=None, per_class=True, doc="factor on the foreground term"),
    },
    "dice": {"smooth": _SMOOTH},
    "jaccard": {"smooth": _SMOOTH},
    "focal": {
        "gamma": Option(default=2.0, doc="how much easy pixels are turned down; 0 is plain BCE"),
        "alpha": Option(
            default=None,
            high=1.0,
            per_class=True,
            doc="weight of the foreground, 1 - alpha of the background; multiclass: a list",
        ),
    },
    "lovasz": {
        "activation": Option(default="relu", choices=("relu", "elu"), doc="elu means elu(x) + 1"),
        "symmetric": Option(default=False, doc="average with the loss of the complement"),
    },
    "lovasz_softmax": {},
    "cross_entropy": {
        "label_smoothing": _SMOOTHING,
        "class_weights": Option(default=None, only_list=True, doc="one factor per class"),
    },
}

LOSS_TASKS: dict[str, tuple[str, ...]] = {
    "bce": _SIGMOID_TASKS,
    "dice": TASKS,
    "jaccard": TASKS,
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


def check_loss_spec(spec: LossSpec, task: str) -> None:
    """Raise ValueError for an unknown loss, option, value or task, naming the valid ones."""
    if task not in TASKS:
        raise unknown_name("task", task, TASKS)
    if not isinstance(spec, Mapping) or not spec:
        raise ValueError(f"a loss spec maps loss names to weights, not {spec!r}")
    for name, value in spec.items():
        _check_term(name, value, task)
    if not any(split_term(value)[0] > 0 for value in spec.values()):
        raise ValueError(f"a loss spec needs a weight above 0: {dict(spec)!r}")


def _check_term(name: str, value: Any, task: str) -> None:
    if name not in LOSS_OPTIONS:
        raise unknown_name("loss", name, LOSS_OPTIONS)
    if task not in LOSS_TASKS[name]:
        usable = [n for n, tasks in LOSS_TASKS.items() if task in tasks]
        raise ValueError(f"loss {name!r} is not for task {task!r} (valid: {', '.join(usable)})")
    weight, options = split_term(value)
    _check_number(f"the weight of loss {name!r}", weight, 0.0, math.inf)
    for key, option_value in options.items():
        if key not in LOSS_OPTIONS[name]:
            raise unknown_name(f"option of loss {name!r}", key, ["weight", *LOSS_OPTIONS[name]])
        _check_option(f"option {key!r} of loss {name!r}", option_value, LOSS_OPTIONS[name][key])
    if name == "focal" and task == "multiclass" and isinstance(options.get("alpha"), int | float):
        raise ValueError("option 'alpha' of loss 'focal' must be a list for task 'multiclass'")


def _check_option(what: str, value: Any, option: Option) -> None:
    if value is None and option.default is None:
        return
    if option.choices:
        if value not in option.choices:
            raise unknown_name(f"value of {what}", value, option.choices)
    elif isinstance(option.default, bool):
        if not isinstance(value, bool):
            raise ValueError(f"{what} must be true or false, not {value!r}")
    elif isinstance(value, list | tuple) and (option.per_class or option.only_list):
        for item in value:
            _check_number(f"each number in {what}", item, option.low, option.high)
    elif option.only_list:
        raise ValueError(f"{what} must be a list of one number per class, not {value!r}")
    else:
        _check_number(what, value, option.low, option.high)


def _check_number(what: str, value: Any, low: float, high: float) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not low <= value <= high:
        limits = f"of at least {low:g}" if math.isinf(high) else f"in [{low:g}, {high:g}]"
        raise ValueError(f"{what} must be a number {limits}, not {value!r}")
