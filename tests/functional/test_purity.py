"""The modules that `distseg --help` and the config reach must not import torch."""

import subprocess
import sys
from pathlib import Path

import pytest

TORCH_FREE = ["rle", "metrics", "combine", "tuning", "verdict", "bootstrap", "naming"]
NAMES = ["loss_names", "tta_names"]


@pytest.mark.parametrize("modules", [TORCH_FREE, NAMES])
def test_no_torch(modules: list[str]) -> None:
    imports = "; ".join(f"import distseg.functional.{name}" for name in modules)
    code = f"import sys; {imports}; sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
