"""A config by its path, or by its name in a folder `configs/`."""

from __future__ import annotations

from pathlib import Path

from distseg.functional.naming import nearest
from distseg.records.errors import UserError


def find_config(name: str) -> Path:
    """A path, or a name in configs/. UserError with the nearest name."""
    if Path(name).is_file():
        return Path(name)
    folders = [Path("configs"), Path(__file__).resolve().parents[2] / "configs"]
    for folder in folders:
        for path in (folder / name, folder / f"{name}.yaml"):
            if path.is_file():
                return path
    known = sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})
    close = nearest(Path(name).stem, known)
    hint = f" Did you mean {close!r}?" if close else ""
    listed = f" In configs/: {', '.join(known)}" if known else ""
    raise UserError(f"{name}: no such config.{hint}{listed}")
