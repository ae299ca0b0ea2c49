"""`distseg export`: which members go, in which form, with which card."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distseg import __version__
from distseg.config.schema import Config
from distseg.data.formats.row import image_files
from distseg.data.read_input import read_input, reading_of
from distseg.export.ensemble_folder import fill_ensemble_folder
from distseg.export.facts import facts_of, write_card
from distseg.export.graph import SUFFIXES, check_packages, load_graph, write_graph
from distseg.export.smp_folder import fill_smp_folder
from distseg.functional.naming import unknown_text
from distseg.inference.predict import open_ensemble
from distseg.records.errors import UserError
from distseg.records.files import atomic_write, whole_folder, write_json
from distseg.records.manifest import Manifest
from distseg.records.paths import Run, member_id

logger = logging.getLogger(__name__)

FORMATS = ("ensemble", "smp", "onnx", "torch")
NUM_IMAGES = 4  # that a graph is compared with torch on


def export_run(
    folder: Path, out: Path, form: str = "ensemble", members: Sequence[str] = (),
    images: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Write the final ensemble of a run, or of an exported folder, into the new folder `out`.

    Args:
        form: ensemble: one folder that predicts; smp, onnx, torch: each member by itself.
        members: NAME:FOLD of those that go; all of the ensemble by default.
        images: folder of images on which onnx and torch files are compared with torch; the run's
            own by default.

    Returns:
        What export.json holds.

    Raises:
        UserError: `out` holds something, a member is unknown, no image can be read, a package is
            missing, or a network has no such form.
        ExportFailed: a graph does not give torch's numbers.
    """
    run, config, ensemble = open_ensemble(folder)
    if form not in FORMATS:
        raise UserError(f"--format: {unknown_text('format', form, FORMATS)}")
    _check_out(out)
    chosen = choose_members(ensemble, members)
    if form == "ensemble" and len(chosen) < len(ensemble["members"]):
        raise UserError(
            "--members: the score and the rules are those of the whole ensemble; a part of it can "
            "be written with --format smp, onnx or torch"
        )
    facts = facts_of(run, config, ensemble)
    record: dict[str, Any] = {"distseg": __version__, "format": form, "facts": facts}
    with whole_folder(out) as temporary:
        if form == "ensemble":
            fill_ensemble_folder(run, config, ensemble, chosen, temporary)
        elif form == "smp":
            constants = _constants(config, ensemble)
            record["models"] = fill_smp_folder(run, chosen, constants, temporary)
        else:
            check_packages(form)
            pictures = real_images(run, config, images)
            record["models"] = [
                _fill_graph(run, config, ensemble, one, pictures, temporary, form) for one in chosen
            ]
        atomic_write(temporary / "README.md", write_card(facts, form))
        write_json(Run(temporary).exported, record)
    return record


def choose_members(ensemble: dict[str, Any], wanted: Sequence[str]) -> list[dict[str, Any]]:
    """The members of an ensemble that weigh something, or those of them that are wanted."""
    known = {f"{one['name']}:{one['fold']}": one for one in ensemble["members"] if one["weight"]}
    for name in wanted:
        if name not in known:
            raise UserError(f"--members: {unknown_text('member', name, known)}")
    return [one for name, one in known.items() if not wanted or name in wanted]


def real_images(run: Run, config: Config, folder: Path | None = None) -> list[NDArray[np.uint8]]:
    """The first images that can be read, uint8 (H, W, C): of a folder, else of the run's own.
    UserError: there is none."""
    reading = reading_of(config)
    if folder is not None:
        paths = [str(path) for path in image_files(folder, "--images")]
    else:
        tables = [path for path in (run.data / "test.csv", run.truth) if path.is_file()]
        paths = [sample.image for table in tables for sample in Manifest.read(table)]
    found: list[NDArray[np.uint8]] = []
    for path in paths:
        try:
            found.append(read_input(path, reading))
        except UserError as error:
            logger.warning("%s", error)
        if len(found) == NUM_IMAGES:
            break
    if not found:
        raise UserError(
            "no image of the run can be read, and a graph is compared with torch on real ones: "
            "give a folder of some with --images DIR"
        )
    return found


def _check_out(out: Path) -> None:
    """UserError: something lies there already."""
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UserError(f"{out}: something is there already; export to a new folder, or remove it")


def _constants(config: Config, ensemble: dict[str, Any]) -> dict[str, Any]:
    """What goes before and after a network, as its file carries it along."""
    return {
        "distseg": __version__,
        "task": config.task,
        "classes": config.classes,
        "threshold_logit": 0.0,
        "ensemble": {key: ensemble[key] for key in ("space", "tta", "rule")},
    }


def _fill_graph(
    run: Run, config: Config, ensemble: dict[str, Any], member: dict[str, Any],
    images: Sequence[NDArray[np.uint8]], folder: Path, kind: str,
) -> dict[str, Any]:  # fmt: skip
    """Write one member's file, and say how far it is from torch."""
    label = member_id(member["name"], member["fold"])
    graph, input_config = load_graph([run.folder / s for s in member["snapshots"]], config.task)
    path = folder / f"{label}{SUFFIXES[kind]}"
    own = {**_constants(config, ensemble), "member": label, "snapshots": len(member["snapshots"])}
    checked = write_graph(graph, input_config, images, own, path, kind)
    logger.info(
        "%s: logits within %.1e of torch on %d real images", path.name,
        checked["largest_difference"], len(images),
    )  # fmt: skip
    return {"file": path.name, "images": len(images), **checked}
