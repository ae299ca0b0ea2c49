"""`distseg init DATA` and `distseg run DATA`: where the config goes, and what is kept."""

from __future__ import annotations

import json
import logging
import os
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distseg.init.given import given_keys, parse_budget
from distseg.init.look import first_keys, readable, stub
from distseg.init.make import DEFAULT_BUDGET_S, default_name, make, write
from distseg.records import log
from distseg.records.errors import UserError, printable_path
from distseg.records.files import read_json_or, real_path, write_json, write_problem
from distseg.records.paths import RUN_FOLDER, Run
from distseg.run.folder import refuse_among_images, refuse_taken

PathLike = str | os.PathLike[str]
logger = logging.getLogger("distseg.init")


def init(
    data: Path, overrides: Sequence[str], out: PathLike | None, budget: str | None,
    weights: PathLike | None,
) -> tuple[Path, list[str]]:  # fmt: skip
    """(the file that was written, lines that say what it does). UserError: see `make`."""
    seconds = parse_budget(budget) if budget is not None else DEFAULT_BUDGET_S
    path = Path(out) if out is not None else Path(f"{default_name(data)}.yaml")
    if path.is_dir() or not path.name:
        raise UserError(f"-o: {printable_path(path)}: is a folder; name a file in it")
    shown = printable_path(shlex.quote(str(path)))
    groups = path.with_name(f"{path.stem}_groups.csv")
    for one in (path, groups):
        if one.exists():
            raise UserError(f"{printable_path(one)}: is there already; choose another name with -o")
    if problem := write_problem(path):
        raise UserError(f"-o: {printable_path(path)}: {problem}")
    log.setup()
    made = make(
        data, overrides, budget=seconds, weights=None if weights is None else Path(weights),
        target=shown, groups=groups, name=default_name(path.with_suffix("")),
    )  # fmt: skip
    write(made, path, groups)
    return path, [*made.said, f"written: {printable_path(path)}; next: distseg run {shown}"]


def start(
    data: Path, overrides: Sequence[str], out: PathLike | None, budget: str | None,
    weights: PathLike | None,
) -> tuple[str, Path]:  # fmt: skip
    """(the config of a run of a folder of data, the run folder). What was written by an earlier
    start is taken again: to resume, the same line is run again. A folds.csv of the user's in the
    run folder divides the images.

    UserError: it was another line, or the folder holds what the start would overwrite.
    """
    began = time.monotonic()
    seconds = parse_budget(budget) if budget is not None else DEFAULT_BUDGET_S
    folder = Path(out) if out is not None else Path(RUN_FOLDER.format(name=default_name(data)))
    run = Run(folder)
    path, groups, line = folder / "init.yaml", folder / "groups.csv", folder / "init.json"
    asked: dict[str, Any] = {
        "data": str(data), "overrides": list(overrides), "budget_s": seconds,
        "weights": None if weights is None else str(weights),
    }  # fmt: skip
    if path.is_file():
        if read_json_or(line, {}) != asked:
            raise UserError(
                f"{printable_path(path)}: an earlier start has written it for another data folder, "
                "budget or keys; choose another folder with --out, or go on with "
                f"`distseg run {printable_path(shlex.join([str(path), '--out', str(folder)]))}`"
            )
        return str(path), folder
    if run.config.is_file():
        raise UserError(f"{printable_path(folder)}: holds another run; choose one with --out")
    refuse_taken(run)
    if problem := write_problem(path):
        raise UserError(f"--out: {printable_path(folder)}: {problem}")
    given = given_keys(overrides, printable_path(data))
    folds = given.get("data", {}).get("folds", {})
    earlier = read_json_or(line, {})  # of a start that was killed here
    for one, own in ((groups, earlier == asked or "groups" in folds),
                     (line, set(earlier) == set(asked))):  # fmt: skip
        if one.exists() and not own:
            raise UserError(
                f"{printable_path(one)}: is there, and no start like this one has written it; "
                "choose another folder with --out"
            )
    if data.resolve() in real_path(folder).parents:
        refuse_among_images(stub(readable(first_keys(data, given)[0])), run)
    overrides = [*overrides, *_own_folds(run, folds)]
    log.setup()
    made = make(
        data, overrides, budget=seconds, weights=None if weights is None else Path(weights),
        target=printable_path(shlex.join([str(path), "--out", str(folder)])), groups=groups,
        spent_s=max(1.0, time.monotonic() - began),
    )  # fmt: skip
    if made.groups and earlier == asked:
        groups.unlink(missing_ok=True)
    write_json(line, asked)
    write(made, path, groups)
    for text in made.said:
        logger.info("%s", text)
    return str(path), folder


def _own_folds(run: Run, folds: Mapping[str, Any]) -> list[str]:
    """Keys that say what a folds.csv in the run folder does: it divides the images, whatever the
    config says. UserError: another division is asked for, too, by keys of `data.folds`."""
    if not run.folds.is_file():
        return []
    if others := sorted(set(folds) - {"use"}):
        raise UserError(
            f"{printable_path(run.folds)}: divides the images: leave data.folds.{others[0]} out, "
            "or choose another folder with --out"
        )
    return ["data.folds.kind=file", f"data.folds.path={json.dumps(str(run.folds.absolute()))}"]
