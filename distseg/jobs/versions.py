"""What a run was made with: versions, hardware and source, for env.json and `distseg doctor`."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from distseg import __version__
from distseg.jobs.hardware import num_cores, query_gpus

PACKAGES = (
    "torch", "torchvision", "accelerate", "timm", "segmentation-models-pytorch", "albumentations",
    "opencv-python-headless", "numpy", "pillow", "pydantic", "safetensors",
)  # fmt: skip


def package_versions(names: Iterable[str] = PACKAGES) -> dict[str, str | None]:
    """Installed versions; None for a package that is not installed."""
    found: dict[str, str | None] = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def install_hint(extra: str) -> str:
    """The command that installs an extra: of the installed distseg, from wherever it came, or of
    the source folder that is used without having been installed."""
    try:
        metadata.version("distseg")
    except metadata.PackageNotFoundError:
        return f"pip install -e '{Path(__file__).resolve().parents[2]}[{extra}]'"
    return f"pip install 'distseg[{extra}]'"


def git_commit() -> str | None:
    """Commit of this source tree, with "-dirty" for changes; None for an installed package."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def cpu_name() -> str:
    """The processor's name as the kernel gives it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def environment_record() -> dict[str, Any]:
    """JSON of everything that could explain a different result."""
    return {
        "distseg": __version__,
        "commit": git_commit(),
        "command": sys.argv,
        "folder": str(Path.cwd()),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": package_versions(),
        "cpu": cpu_name(),
        "cores": num_cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": [{"name": g.name, "memory_bytes": g.memory} for g in query_gpus()],
        "cuda_visible_devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
    }
