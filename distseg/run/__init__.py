"""The whole run: what is checked before the first job, what to run, in which order, and where it
stands. `distseg.run(config)` calls `distseg.api.run`: the room and the function share the name.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType
from typing import Any


class _Room(ModuleType):
    """This folder, callable."""

    def __call__(self, config: Any, overrides: Sequence[str] = (), **options: Any) -> Any:
        return import_module("distseg.api").run(config, overrides, **options)


sys.modules[__name__].__class__ = _Room
