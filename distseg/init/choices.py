"""What the user's own keys leave to choose from, before anything is measured."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from distseg.config.load import parse_config
from distseg.config.schema import Config
from distseg.init.budget import Candidate, Spent
from distseg.init.encoders import Encoder
from distseg.init.folds import Folds
from distseg.init.sizes import Size
from distseg.records.errors import UserError
from distseg.records.paces import Pace
from distseg.run.check import mistakes
from distseg.run.forecast import Forecast


class TreeOf(Protocol):
    """A config's tree of a size, a division and an encoder, with the user's keys in it. first:
    (height, width) that the first stage trains at, where that is not the size."""

    def __call__(
        self, size: Size, folds: Folds, encoder: Encoder, first: tuple[int, int] | None = None
    ) -> Mapping[str, Any]: ...


def draft(size: Size, folds: Folds, batch_size: int, first: tuple[int, int] | None = None) -> Spent:
    """A way to spend a budget of which nothing is measured yet. first: the first stage's size."""
    pace = Pace(
        batch_size=batch_size, step_s=1.0, first_step_s=1.0, spread=0.0, evaluate_s=1.0,
        predict_s=1.0, save_s=0.0, start_s=0.0, prepare_s=0.0, memory=0, saved=0,
    )  # fmt: skip
    candidate = Candidate(0, size, pace, 1.0, pretrained=False, first=first)
    return Spent(candidate, folds, 1, 1, 6, 3, 10, 1, Forecast({}, 0.0), 0.0)


def allowed(
    sizes: Sequence[Size], folds: Sequence[Folds], encoders: Sequence[Encoder], tree_of: TreeOf,
    where: str, groups: Path,
) -> tuple[list[Size], tuple[Folds, ...], tuple[Encoder, ...]]:  # fmt: skip
    """The sizes, divisions and encoders with which a config can have the user's keys; encoders that
    cannot begin with smaller images then are marked so.

    Args:
        where: what messages call it. groups: the table of groups that is written with the config.

    UserError: there are none, or this machine or the data cannot have such a config; each line
    names a key.
    """
    fitting: dict[tuple[Size, Folds, Encoder], Config] = {}
    refused: UserError | None = None
    for choice in itertools.product(sizes, folds, encoders):
        try:
            fitting[choice] = parse_config(tree_of(*choice), where)
        except UserError as error:
            refused = refused or error
    if not fitting:
        assert refused is not None
        raise refused
    first = next(iter(fitting))
    if lines := mistakes(_without_table(fitting[first], groups)):
        raise UserError("\n".join(f"{where}: {line}" for line in lines))
    _, _, own = first  # what goes with the first choice, and with that what else there is
    fine = [size for size in sizes if any((size, one, own) in fitting for one in folds)]
    divided = tuple(one for one in folds if any((size, one, own) in fitting for size in sizes))
    others = [one for one in encoders if all((size, divided[0], one) in fitting for size in fine)]
    kept = [
        one if _may_begin_smaller(fine, divided[0], one, tree_of, where, groups)
        else replace(one, begins_smaller=False)
        for one in others or [own]
    ]  # fmt: skip
    return fine, divided, tuple(kept)


def _may_begin_smaller(
    sizes: Sequence[Size], folds: Folds, encoder: Encoder, tree_of: TreeOf, where: str, groups: Path
) -> bool:
    """Whether a first stage at a smaller size goes with the user's keys at each of the sizes: their
    stages may have sizes of their own, their networks need other multiples, more pixels, or images
    of one size alone."""
    config = None
    for size in sorted(sizes, key=lambda size: -size.pixels):
        if first := encoder.smaller(size):
            try:
                config = parse_config(tree_of(size, folds, encoder, first), where)
            except UserError:
                return False
            for name in config.members:
                shown = [stage.input_size for stage in config.stages_of(name)]
                if shown != [first, *[None] * (len(shown) - 1)]:
                    return False
    # the smallest of all is the hardest
    return config is None or not mistakes(_without_table(config, groups))


def _without_table(config: Config, groups: Path) -> Config:
    """The config with folds of single images, where the table of groups is not written yet."""
    folds = config.data.folds
    if folds.kind != "group" or folds.groups != str(groups):
        return config
    plain = folds.model_copy(update={"kind": "stratified", "column": None, "groups": None})
    return config.model_copy(update={"data": config.data.model_copy(update={"folds": plain})})
