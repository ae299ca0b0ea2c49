"""Keys that the chosen kind of folds, or of fit, does not read are mistakes that name the kind."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from distseg.config.data import FIT_KEYS, FoldsConfig, InputConfig
from distseg.config.fields import changed_keys
from distseg.config.kinds import FOLD_KEYS, kind_mistakes
from distseg.config.load import dump_config, parse_config
from distseg.config.schema import Config
from distseg.config.validate import mistakes
from tests.tiny import tiny_tree

VALUES: dict[str, Any] = {
    "num": 3, "seed": 7, "fraction": 0.4, "column": "c", "groups": "g.csv", "path": "p.csv",
    "strata": "s.csv", "strata_column": "y",
}  # fmt: skip
NEEDED: dict[str, dict[str, Any]] = {
    "group": {"column": "c", "groups": "g.csv"},
    "file": {"path": "p.csv"},
}
FITS: dict[str, Any] = {
    "scale_to": [64, 64], "pad_mode": "edge", "random_offset": True, "foreground": 0.5,
    "overlap": 0.25,
}  # fmt: skip


def config_of(**changes: Any) -> Config:
    tree = tiny_tree()
    data = {**tree["data"], **changes.pop("data", {})}
    return parse_config({**tree, "data": data, **changes}, "t")


def test_every_key_of_folds_belongs_to_a_kind() -> None:
    kinds = FoldsConfig.model_fields["kind"].annotation.__args__  # type: ignore[union-attr]
    assert set(FOLD_KEYS) == set(kinds)
    known = {key for keys in FOLD_KEYS.values() for key in keys}
    assert known | {"kind", "use"} == set(FoldsConfig.model_fields)
    assert set(FIT_KEYS) < set(InputConfig.model_fields)


@pytest.mark.parametrize("kind", FOLD_KEYS)
@pytest.mark.parametrize("key", VALUES)
def test_a_key_of_folds_is_read_or_refused(kind: str, key: str) -> None:
    options: dict[str, Any] = {"kind": kind, **NEEDED.get(kind, {}), key: VALUES[key]}
    if key == "strata_column" and key in FOLD_KEYS[kind]:
        options["strata"] = "s.csv"
    found = list(kind_mistakes(_raw(options)))
    if key in FOLD_KEYS[kind]:
        assert found == []
    else:
        kinds = ", ".join(one for one, keys in FOLD_KEYS.items() if key in keys)
        assert found[0] == (
            f"data.folds.{key}: {VALUES[key]}: kind: {kind} does not read it; it is for kind: "
            f"{kinds}"
        )


def _raw(folds: dict[str, Any]) -> Config:
    """A config that nothing has checked but the schema."""
    return Config.model_validate({**tiny_tree(), "data": {"folds": folds}})


def test_a_column_of_strata_needs_its_table() -> None:
    (line,) = kind_mistakes(_raw({"strata_column": "depth"}))
    assert (
        line
        == "data.folds.strata_column: depth: is a column of data.folds.strata, which is not set"
    )


@pytest.mark.parametrize("fit", ["pad", "resize", "crop"])
@pytest.mark.parametrize("key", FITS)
def test_a_key_of_fit_is_read_or_refused(fit: str, key: str) -> None:
    size = {"height": 64, "width": 64, "fit": fit, key: FITS[key]}
    found = list(InputConfig.model_validate(size).mistakes("input"))
    if fit in FIT_KEYS[key]:
        assert found == []
    else:
        (line,) = found
        assert line.startswith(f"input.{key}: ") and "needs input.fit: " in line
        assert all(one in line.partition("needs")[2] for one in (*FIT_KEYS[key], f"not {fit}"))


def test_a_members_own_input_is_named() -> None:
    own = {"height": 32, "width": 32, "channels": 1, "fit": "resize", "pad_mode": "edge"}
    tree = tiny_tree()
    tree["members"]["a"]["input"] = own
    lines = mistakes(Config.model_validate(tree))
    assert "members.a.input.pad_mode: edge: needs input.fit: pad or crop, not resize" in lines


def test_a_config_that_a_program_has_written_in_full_is_no_wish() -> None:
    """Every key stands in a run's config.yaml, of every kind, at its default."""
    for folds in ({"kind": "holdout"}, {"kind": "split"}, {"kind": "stratified", "num": 3}):
        config = config_of(data={"folds": folds})
        again = parse_config(yaml.safe_load(dump_config(config)), "again")
        assert again == config and changed_keys(again.data.folds) <= {"kind", "num"}
