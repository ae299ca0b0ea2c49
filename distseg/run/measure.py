"""What a plan needs to know about data and models: counts, sizes, parameters, activations."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from distseg.config.schema import Config
from distseg.config.training import StageConfig
from distseg.records.manifest import Manifest, Sample
from distseg.records.paths import RoundKey, Run, is_teachers, round_number

if TYPE_CHECKING:
    from torch import Tensor, nn

    from distseg.data.formats.row import Row

BYTES_PER_VALUE = 4  # float32


@dataclass(frozen=True, slots=True)
class DataSize:
    """The data: train and test images, typical native height and width in pixels.

    held: share of the train images that a fold validates; None: as `data.folds` says.
    test_share: pixels of a test image, as a multiple of those of a train image.
    """

    num_train: int
    num_test: int
    height: int
    width: int
    held: float | None = None
    test_share: float = 1.0


@dataclass(frozen=True, slots=True)
class ModelSize:
    """One model of the config: parameters, and bytes of activations of one image in float32.

    frozen: parameters, of these, of an encoder that no stage trains: they have no gradient and no
        state of the optimizer, and nothing in the encoder is kept for a backward pass.
    features: by (height, width) that a stage with a frozen encoder trains at, numbers of an image's
        maps; none where a decoder takes more than those.
    """

    parameters: int
    activation_bytes: int
    frozen: int = 0
    features: Mapping[tuple[int, int], int] = field(default_factory=dict)

    @property
    def learning(self) -> int:
        """Parameters that some stage trains."""
        return self.parameters - self.frozen


def data_size(config: Config, run: Run) -> DataSize:
    """From the run's Manifest where there is one, else from the files' list: nothing is decoded,
    the first train image's header gives the size. The synthetic data set is not made."""
    if run.truth.is_file() and (run.data / "test.csv").is_file():
        train = list(Manifest.read(run.truth))
        test = list(Manifest.read(run.data / "test.csv"))
        heights, widths = sorted(s.height for s in train), sorted(s.width for s in train)
        middle = len(train) // 2
        held = share_of_folds([sample.fold for sample in train])
        share = pixels_share(test, train)
        return DataSize(len(train), len(test), heights[middle], widths[middle], held, share)
    if config.data.format == "synthetic":
        made = config.data.synthetic
        size = DataSize(made.num_train, made.num_test, made.height, made.width)
    else:
        size = _listed_size(config)
    limit = config.data.limit or max(size.num_train, size.num_test)
    return replace(size, num_train=min(limit, size.num_train), num_test=min(limit, size.num_test))


def share_of_folds(folds: Sequence[int]) -> float | None:
    """The share of the rows that a fold has on average, from the fold of each; -1 trains in all."""
    held = [fold for fold in folds if fold >= 0]
    return len(held) / len(set(held)) / len(folds) if held else None


def pixels_share(test: Sequence[Sample], train: Sequence[Sample]) -> float:
    """Pixels of a test image, as a multiple of those of a train image; 1 where none are known."""
    means = []
    for samples in (test, train):
        pixels = [sample.height * sample.width for sample in samples]
        known = [number for number in pixels if number > 0]
        means.append(sum(known) / len(known) if known else 0.0)
    return means[0] / means[1] if all(means) else 1.0


def _listed_size(config: Config) -> DataSize:
    from distseg.data.image_file import image_size
    from distseg.data.layouts import layout
    from distseg.data.read_input import image_channels
    from distseg.records.errors import UserError

    def first_size(rows: Sequence[Row]) -> tuple[int, int] | None:
        for row in rows:
            try:
                return image_size(row.image, config.data.max_pixels, image_channels(config))
            except (UserError, OSError):
                continue  # `inspect` is the one to complain
        return None

    form = layout(config.data.format)
    train = [row for row in form.train(config) if not row.problem]
    test = form.test(config)
    own = first_size(train)
    if own is None:
        raise UserError(
            f"{config.data.root}: no train image here can be read; see `distseg inspect`"
        )
    pixels = math.prod(first_size(test) or own) / math.prod(own)
    return DataSize(len(train), len(test), *own, _held_of(config, train), pixels)


def _held_of(config: Config, rows: Sequence[Row]) -> float | None:
    """The share of the rows that a fold validates, where the files say it and the config does
    not."""
    from distseg.data.folds import find_file
    from distseg.records.errors import UserError
    from distseg.records.tables import read_table

    folds = config.data.folds
    if folds.kind == "split":
        return share_of_folds([0 if row.validates else -1 for row in rows])
    if folds.kind != "file":
        return None
    try:
        table = read_table(find_file(config, str(folds.path)), ("id", "fold"))
        by_id = {cells["id"]: (cells["fold"] or "").strip() for _, cells in table}
    except UserError:
        return None  # the check of the config says so
    found = [by_id.get(row.id, "-1") for row in rows]
    return share_of_folds([int(fold) if fold.isdecimal() else -1 for fold in found])


def model_sizes(config: Config) -> dict[str, ModelSize]:
    """Parameters and activation bytes of one image, by model. Imports torch, a few seconds."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import torch

    from distseg.models.build import build_model, count_parameters
    from distseg.models.frozen import layout_of
    from distseg.models.pyramid import ENCODER, trunk

    sizes = {}
    for name, member in config.members.items():
        size = config.input_of(name)
        shape = (size.height, size.width)
        model = build_model(member, size.channels, config.num_outputs, shape, pretrained=False)
        stays = [stage.freeze_encoder == "always" for stage in config.stages_of(name)]
        frozen = trunk(model.get_submodule(ENCODER)) if all(stays) else None
        activations = _activation_bytes(model, (1, size.channels, *shape), frozen)
        features = {}
        keys = [*range(len(config.rounds))]
        for high, wide in {canvas for key in keys for _, canvas in _map_stages(config, name, key)}:
            encoder = trunk(model.eval().get_submodule(ENCODER))
            # noise, since zeros would not show that a decoder reads the image, too
            generator = torch.Generator().manual_seed(0)
            noise = torch.randn(1, size.channels, high, wide, generator=generator)
            if layout := layout_of(model, encoder, noise):
                features[high, wide] = layout.values
        sizes[name] = ModelSize(
            count_parameters(model),
            activations,
            frozen=0 if frozen is None else count_parameters(frozen),
            features=features,
        )
    return sizes


def _map_stages(
    config: Config, name: str, key: RoundKey
) -> Iterator[tuple[StageConfig, tuple[int, int]]]:
    """The stages of a model in a round that read feature maps, where its decoder and the disk let
    them, and (height, width) of what they train at."""
    recipe, compute, size = config.recipe(key), config.compute, config.input_of(name)
    from_models = not is_teachers(key) and config.has_pseudo(round_number(key))
    if compute.zero or compute.compile or recipe.has_mean_teacher or from_models:
        return
    for stage in config.stages_of(name, key):
        if stage.freeze_encoder != "always":  # its encoder learns, and is the member's own
            return
        if stage.views is not None:
            yield stage, stage.input_size or (size.height, size.width)


def feature_bytes(
    config: Config,
    size: DataSize,
    models: Mapping[str, ModelSize],
    planned: Mapping[RoundKey, Sequence[tuple[str, int]]],
) -> int:
    """Bytes of the maps of frozen encoders, within data.feature_cache_gb: stages with one encoder,
    its weights, input and augmentation share theirs. planned: members by round."""
    found: dict[str, int] = {}
    everyone = [(key, *member) for key, members in planned.items() for member in members]
    for key, name, fold in everyone:
        member, shown = config.members[name], config.input_of(name)
        own: list[object] = [member.encoder, member.encoder_weights, shown.model_dump_json()]
        if shown.normalize == "train":  # by the rows of the member
            judged = is_teachers(key) or config.recipe(key).judges_labeled
            own += [fold, key if judged else 0, name if config.train.inner_share else ""]
        for stage, canvas in _map_stages(config, name, key):
            steps = config.augment if stage.augment is None else stage.augment
            views = 1 if not steps and shown.fit == "resize" else stage.views or 0
            values = models[name].features.get(canvas, 0)
            parts = [*own, canvas, views, values, [step.model_dump_json() for step in steps]]
            found[repr(parts)] = 2 * size.num_train * views * values
    limit = round(config.data.feature_cache_gb * 1e9)
    return min(limit, sum(one for one in found.values() if one <= limit))


def _activation_bytes(
    model: nn.Module, shape: tuple[int, ...], frozen: nn.Module | None = None
) -> int:
    """Bytes that a backward pass keeps for one image: the outputs of all leaf modules, without
    those that work in place and those of a part that is frozen."""
    import torch

    total = 0

    def count(module: nn.Module, _inputs: object, output: object) -> None:
        nonlocal total
        if isinstance(output, torch.Tensor) and not getattr(module, "inplace", False):
            total += output.numel() * BYTES_PER_VALUE

    inside = set() if frozen is None else set(frozen.modules())
    leaves = [m for m in model.modules() if next(m.children(), None) is None and m not in inside]
    hooks = [leaf.register_forward_hook(count) for leaf in leaves]
    image: Tensor = torch.zeros(shape)
    with torch.inference_mode():
        model.eval()(image)  # in training mode, batch norm refuses a single 1 x 1 map
    for hook in hooks:
        hook.remove()
    return total
