"""A tiny member with weights of its own in a file, whose encoder never learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from distseg.config.member import MemberConfig
from distseg.models.build import build_model
from tests.tiny import tiny_tree

ENCODER = "tu-mobilenetv3_small_050"  # with batch normalization
DECODER = {"encoder_depth": 3, "decoder_channels": [16, 8, 8], "decoder_use_norm": False}


def write_weights(path: Path, encoder: str = ENCODER) -> str:
    """A file of an encoder's weights, with running statistics unlike those of a start."""
    torch.manual_seed(7)
    member = MemberConfig(encoder=encoder, decoder=DECODER)
    model = build_model(member, 1, 1, (32, 32)).get_submodule("net.encoder")
    state = model.state_dict()
    for name, tensor in state.items():
        if name.endswith(("running_mean", "running_var")):
            tensor.uniform_(0.5, 1.5)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    return str(path)


def frozen_tree(weights: str, **stage: Any) -> dict[str, Any]:
    """Changes of a tiny tree. stage: of its one stage."""
    member = {"arch": "Unet", "encoder": ENCODER, "encoder_weights": weights, "decoder": DECODER}
    own = {**tiny_tree()["stages"][0], "freeze_encoder": "always"}
    own["optimizer"] = {"name": "adamw", "lr": 1e-2, "weight_decay": 0.1}
    return {"members": {"a": member}, "stages": [{**own, **stage}]}


def changed(weights: str, state: dict[str, torch.Tensor]) -> list[str]:
    """Names of the encoder's entries that a model's state has otherwise than the file."""
    own = {name.removeprefix("net.encoder."): t for name, t in state.items()}
    file = load_file(weights)
    assert file.keys() <= own.keys()
    return [name for name, tensor in file.items() if not torch.equal(tensor, own[name])]
