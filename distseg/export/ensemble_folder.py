"""An ensemble as a folder of its own: `distseg predict` and `load_ensemble` read it as a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distseg.config.data import FoldsConfig
from distseg.config.load import dump_config, load_config
from distseg.config.member import MemberConfig
from distseg.config.schema import Config
from distseg.data.mask_values import copy_values
from distseg.models import checkpoint
from distseg.records.files import atomic_write, write_json
from distseg.records.paths import Run, member_id

DEPTHS = "depths.csv"


def fill_ensemble_folder(
    run: Run, config: Config, ensemble: dict[str, Any], members: list[dict[str, Any]], folder: Path
) -> None:
    """Write config.yaml, ensemble.json, the values of masks and the weights of `members` into
    `folder`.

    Weights keep their bits. No path of this machine goes along.
    """
    new, kept = Run(folder), []
    for member in members:
        label = member_id(member["name"], member["fold"])
        files = [f"members/{label}/{Path(path).name}" for path in member["snapshots"]]
        for source, target in zip(member["snapshots"], files, strict=True):
            state, record = checkpoint.load_snapshot(run.folder / source)
            record["member"] = _without_path(record["member"])
            checkpoint.save_snapshot(folder / target, state, record)
        kept.append({**member, "snapshots": files})
    left_out = [{"name": one["name"], "fold": one["fold"]} for one in ensemble["left_out"]]
    write_json(new.final, {**ensemble, "members": kept, "left_out": left_out})
    data: dict[str, Any] = {"root": ".", "cache_dir": None, "table": None, "folds": FoldsConfig()}
    copy_values(config, run.data, new.data)
    if config.data.depths:
        atomic_write(folder / DEPTHS, (Path(config.data.root) / config.data.depths).read_bytes())
        data["depths"] = DEPTHS
    models = {name: _portable(model) for name, model in config.members.items()}
    own = {"data": config.data.model_copy(update=data), "members": models, "tune": None}
    if not any(ensemble["rule"].get("gate") or []):  # a search that may need what is not here
        own["postprocess"] = config.postprocess.model_copy(update={"gate": "none"})
    atomic_write(new.config, dump_config(config.model_copy(update=own)))
    load_config(new.config)  # it can be read again


def _portable(model: MemberConfig) -> MemberConfig:
    """A model without a path of this machine, and of no folds: the folder has none."""
    own = _without_path({"encoder_weights": model.encoder_weights})
    return model.model_copy(update={**own, "folds": None})


def _without_path(member: dict[str, Any]) -> dict[str, Any]:
    """A member's config with the bare name of the file that its encoder's weights came from."""
    weights = member.get("encoder_weights")
    return {**member, "encoder_weights": None if weights is None else Path(weights).name}
