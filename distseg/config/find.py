"""A config by its path, or by its name: in a folder `configs/` here, or among those shipped."""

from __future__ import annotations

import shlex
from pathlib import Path

from distseg.functional.naming import nearest
from distseg.records.errors import UserError

PACKAGE = Path(__file__).resolve().parents[1]


def shipped(folder: str) -> Path:
    """A folder that comes with distseg, `configs` or `launch`: inside the installed package, or
    beside it in the source tree."""
    inside = PACKAGE / "shipped" / folder
    return inside if inside.is_dir() else PACKAGE.parent / folder


def config_names() -> dict[str, Path]:
    """Every config that has a name, such as `quickstart` and `seeds/camvid`, with its file. One in
    `configs/` here goes before a shipped one."""
    found: dict[str, Path] = {}
    for folder in (Path("configs"), shipped("configs")):
        for path in sorted(folder.rglob("*.yaml")):
            found.setdefault(path.relative_to(folder).with_suffix("").as_posix(), path)
    return found


def find_config(name: str) -> Path:
    """A path, or a name of `config_names`, which may have `configs/` before it and `.yaml` after
    it. UserError with the nearest name."""
    try:
        if Path(name).is_file():
            return Path(name)
    except (OSError, ValueError):  # too long for the disk, or a null byte
        raise UserError(f"{name!r}: no such config") from None
    if (own := Path(name) / "config.yaml").is_file():
        again = shlex.join(["distseg", "run", str(own), "--out", name])
        raise UserError(f"{name}: is the folder of a run, which goes on with `{again}`")
    known, plain = config_names(), name.removeprefix("configs/").removesuffix(".yaml")
    if plain in known:
        return known[plain]
    close = nearest(plain, known)
    hint = f" Did you mean {close!r}?" if close else ""
    raise UserError(f"{name}: no such config.{hint} `distseg list configs` names those shipped")
