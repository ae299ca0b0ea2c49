"""What `compute.augment_on: device` cannot do is said when the config is read."""

from __future__ import annotations

from typing import Any

import pytest

from distseg.config.augment import AugmentConfig
from distseg.config.device import ORDER
from distseg.config.load import parse_config
from distseg.records.errors import UserError
from tests.tiny import tiny_tree

DEVICE = {"compute": {"augment_on": "device"}}
NAMES = [name for names in ORDER for name in names]
OTHERS = sorted(set(AugmentConfig.model_fields) - set(NAMES) - {"preset", "A"})
PAD = {"height": 64, "width": 64, "channels": 1, "fit": "pad"}


def test_all_that_it_can_do_together() -> None:
    parse_config(tiny_tree(augment=[{name: {}} for name in NAMES], **DEVICE), "t")


@pytest.mark.parametrize("step", [*({name: {}} for name in OTHERS), {"A.CLAHE": {}}])
def test_other_transforms_are_named(step: dict[str, Any]) -> None:
    name = next(iter(step))
    with pytest.raises(UserError, match=rf"augment\.{name}: compute.augment_on: device cannot"):
        parse_config(tiny_tree(augment=[step], **DEVICE), "t")
    parse_config(tiny_tree(augment=[step]), "t")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"augment": [{"gamma": {}}, {"hflip": {}}]}, r"augment\.hflip: .*moves pixels first"),
        ({"augment": [{"noise": {}}, {"noise": {}}]}, r"augment\.noise: .*noise once"),
        ({"augment": [{"preset": "tgs_winners"}]}, r"augment\.elastic: .*cannot do that"),
        ({"stages": [{"augment": [{"blur": {}}]}]}, r"stages\.0\.augment\.blur: "),
        ({"input": {**PAD, "pad_mode": "biharmonic"}}, r"input\.pad_mode: biharmonic: "),
        ({"input": {**PAD, "scale_to": [48, 48]}}, r"input\.scale_to: "),
        ({"stages": [{"freeze_encoder": "always"}]}, r"stages\.0\.views: 4: kept maps"),
    ],
)
def test_what_it_cannot_do_names_its_key(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse_config(tiny_tree(**{"augment": [], **changes}, **DEVICE), "t")


def test_a_stage_may_do_on_the_device_what_the_common_list_could_not() -> None:
    """But every list that is written down is looked at: another stage may come to use it."""
    tree = tiny_tree(augment=[{"blur": {}}], stages=[{"augment": [{"hflip": {}}]}], **DEVICE)
    with pytest.raises(UserError, match=r"augment\.blur"):
        parse_config(tree, "t")
