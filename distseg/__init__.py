"""distseg: from a segmentation competition's files to an ensembled submission.

The Python API (docs/python.md), by names that load when they are first used; their types are in
__init__.pyi. `metrics`, `losses` and `rle` are modules of pure functions.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Where each name lives. Strings, since to import any file is to import this one first.
_FUNCTIONS = {
    **dict.fromkeys(("load_run", "load_ensemble", "predict_folder", "export_run"), "distseg.api"),
    **dict.fromkeys(("compare_runs", "score_submission", "RunFailed"), "distseg.api"),
    "export_student": "distseg.api",
    "UserError": "distseg.records.errors",
}
_MODULES = {
    "run": "distseg.run",
    **{name: f"distseg.functional.{name}" for name in ("metrics", "losses", "rle")},
}
__all__ = ["__version__", *_FUNCTIONS, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(_MODULES[name])
    if name in _FUNCTIONS:
        return getattr(import_module(_FUNCTIONS[name]), name)
    raise AttributeError(f"module 'distseg' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
