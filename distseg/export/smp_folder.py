"""A member's networks as segmentation-models-pytorch keeps its own: `smp.from_pretrained` reads
them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from distseg.inference.load import load_snapshot_model
from distseg.models.pyramid import PyramidEncoder
from distseg.records.errors import UserError
from distseg.records.files import write_json
from distseg.records.paths import Run, member_id


def fill_smp_folder(
    run: Run, members: list[dict[str, Any]], constants: dict[str, Any], folder: Path
) -> list[dict[str, Any]]:
    """Write MEMBER/SNAPSHOT/ with config.json, model.safetensors and distseg.json for each snapshot
    of `members`; returns a record of each. UserError: a network is no smp model."""
    written = []
    for member in members:
        for source in member["snapshots"]:
            model, input_config = load_snapshot_model(
                run.folder / source, torch.device("cpu"), False
            )
            net: Any = model.net
            if not hasattr(net, "save_pretrained"):
                raise UserError(
                    f"--format smp: {member['name']}: {type(net).__name__} is no architecture of "
                    "segmentation-models-pytorch; leave it out with --members, or use --format "
                    "onnx or torch"
                )
            if isinstance(net.encoder, PyramidEncoder):
                raise UserError(
                    f"--format smp: {member['name']}: its encoder has a feature pyramid of "
                    "distseg's own, which smp does not have; leave it out with --members, or use "
                    "--format onnx or torch"
                )
            name = f"{member_id(member['name'], member['fold'])}/{Path(source).stem}"
            facts = {
                "coordinates": model.coordinates,
                "input": input_config.model_dump(mode="json"),
            }
            (folder / name).mkdir(parents=True)
            (folder / name / "README.md").write_text(
                f"# {name}\n\nOne network of an ensemble: see the README.md two folders up.\n"
            )  # smp writes one of its own where there is none
            _whole(net).save_pretrained(folder / name)
            write_json(folder / name / "distseg.json", {**constants, **facts})
            channels = input_config.channels + 2 * bool(model.coordinates)
            shape = (1, channels, input_config.height, input_config.width)
            difference = _difference(net, folder / name, shape)
            written.append({"folder": name, "largest_difference": difference})
    return written


def _whole(net: Any) -> Any:
    """The network with the stages of its encoder that it does not use, which smp makes, and so
    reads, always."""
    whole = type(net)(**{**net.config, "encoder_weights": None})
    whole.load_state_dict(net.state_dict(), strict=False)
    return whole


def _difference(net: Any, folder: Path, shape: tuple[int, ...]) -> float:
    """The largest difference of logits between a network and what its folder gives back, on one
    random image of the canvas's `shape`, (1, C, H, W)."""
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    again = type(net).from_pretrained(folder).eval()
    with torch.inference_mode():
        found = [_logits(one(images)) for one in (net, again)]
    return float((found[0] - found[1]).abs().max())


def _logits(output: Any) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output
