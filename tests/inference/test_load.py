"""Models from snapshots: what is refused, and what an ensemble of them says."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distseg.config.data import InputConfig
from distseg.config.member import MemberConfig
from distseg.functional.combine import combine
from distseg.inference.load import load_predictor
from distseg.inference.predict import LoadedEnsemble
from distseg.models import checkpoint
from distseg.models.build import build_model
from distseg.records.errors import UserError

CPU = torch.device("cpu")
SMALL = {"arch": "PlainUnet", "encoder": "none", "decoder": {"filters": 2, "depth": 1}}
INPUT = {"height": 32, "width": 32, "channels": 1}


def write_snapshot(path: Path, seed: int, num_outputs: int, **record: Any) -> Path:
    torch.manual_seed(seed)
    model = build_model(MemberConfig.model_validate(SMALL), 1, num_outputs, (32, 32))
    whole: Mapping[str, Any] = {"member": SMALL, "input": INPUT, "num_outputs": num_outputs}
    checkpoint.save_snapshot(path, checkpoint.clean_state_dict(model), {**whole, **record})
    return path


@pytest.mark.parametrize(
    "record",
    [
        {"member": {**SMALL, "code": "print(1)"}},
        {"member": {**SMALL, "arch": "NoNet"}},
        {"input": {**INPUT, "height": "tall"}},
        {"member": {**SMALL, "decoder": {"checkpoint_path": "x.pkl"}}},
    ],
)
def test_a_snapshot_can_ask_for_nothing_that_a_config_cannot(
    tmp_path: Path, record: dict[str, Any]
) -> None:
    path = write_snapshot(tmp_path / "s.safetensors", 0, 1, **record)
    with pytest.raises(UserError):
        load_predictor([path], CPU, channels_last=False, autocast=nullcontext)


@pytest.mark.parametrize("task", ["binary", "multiclass"])
@pytest.mark.parametrize("space", ["logit", "prob", "vote"])
def test_prediction_combines_as_tuning_does(tmp_path: Path, space: str, task: str) -> None:
    """A running sum of torch tensors over members against functional.combine on numpy arrays."""
    classes, weights = (3 if task == "multiclass" else 1), [2, 1, 1]
    members = [
        load_predictor(
            [write_snapshot(tmp_path / f"{m}_{s}.safetensors", 9 * m + s, classes) for s in (0, 1)],
            CPU, channels_last=False, autocast=nullcontext,
        )
        for m in range(3)
    ]  # fmt: skip
    assert {member.fit.config for member in members} == {InputConfig(**INPUT)}
    canvas = torch.randint(0, 256, (2, 1, 32, 32), dtype=torch.uint8)
    sizes = [(32, 32), (20, 30)]
    ensemble = LoadedEnsemble(list(zip(weights, members, strict=True)), space, task, ["hflip"])
    found = ensemble.logits({members[0].canvas: canvas}, sizes)
    natives = [member.native_logits(canvas, sizes, ["hflip"]) for member in members]
    for place, size in enumerate(sizes):
        expected = combine([one[place].numpy() for one in natives], weights, space, task)
        assert found[place].shape == (classes, *size)
        np.testing.assert_allclose(found[place].numpy(), expected, rtol=1e-5, atol=1e-6)
