"""What a plan needs to know about data and models: counts, sizes, parameters, activations."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from distseg.config.schema import Config
from distseg.records.manifest import Manifest
from distseg.records.paths import Run

if TYPE_CHECKING:
    from torch import Tensor, nn

BYTES_PER_VALUE = 4  # float32


@dataclass(frozen=True, slots=True)
class DataSize:
    """The data: train and test images, typical native height and width in pixels."""

    num_train: int
    num_test: int
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class ModelSize:
    """One model of the config: parameters, and bytes of activations of one image in float32.

    frozen: parameters, of these, of an encoder that no stage trains: they have no gradient and no
        state of the optimizer, and nothing in the encoder is kept for a backward pass.
    features: numbers of an image's maps, of an encoder that is frozen in the first stage.
    """

    parameters: int
    activation_bytes: int
    frozen: int = 0
    features: int = 0

    @property
    def learning(self) -> int:
        """Parameters that some stage trains."""
        return self.parameters - self.frozen


def data_size(config: Config, run: Run) -> DataSize:
    """From the run's Manifest where there is one, else from the files' list: nothing is decoded,
    the first train image's header gives the size. The synthetic data set is not made."""
    if run.truth.is_file() and (run.data / "test.csv").is_file():
        train = Manifest.read(run.truth)
        test = Manifest.read(run.data / "test.csv")
        heights, widths = sorted(s.height for s in train), sorted(s.width for s in train)
        middle = len(train) // 2
        return DataSize(len(train), len(test), heights[middle], widths[middle])
    if config.data.format == "synthetic":
        made = config.data.synthetic
        size = DataSize(made.num_train, made.num_test, made.height, made.width)
    else:
        size = _listed_size(config)
    limit = config.data.limit or max(size.num_train, size.num_test)
    return DataSize(min(limit, size.num_train), min(limit, size.num_test), size.height, size.width)


def _listed_size(config: Config) -> DataSize:
    from distseg.data.image_file import image_size
    from distseg.data.layouts import layout
    from distseg.data.read_input import image_channels
    from distseg.records.errors import UserError

    form = layout(config.data.format)
    train = [row for row in form.train(config) if not row.problem]
    for row in train:
        try:
            height, width = image_size(row.image, config.data.max_pixels, image_channels(config))
        except (UserError, OSError):
            continue  # `inspect` is the one to complain
        return DataSize(len(train), len(form.test(config)), height, width)
    raise UserError(f"{config.data.root}: no train image here can be read; see `distseg inspect`")


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
        encoder = trunk(model.get_submodule(ENCODER)) if stays[0] else None
        frozen = encoder if all(stays) else None
        activations = _activation_bytes(model, (1, size.channels, *shape), frozen)
        layout = None
        if encoder is not None:
            layout = layout_of(model.eval(), encoder, torch.zeros(1, size.channels, *shape))
        sizes[name] = ModelSize(
            count_parameters(model),
            activations,
            frozen=0 if frozen is None else count_parameters(frozen),
            features=0 if layout is None else layout.values,
        )
    return sizes


def feature_bytes(config: Config, size: DataSize, models: Mapping[str, ModelSize]) -> int:
    """Bytes of the maps of frozen encoders, within data.feature_cache_gb: models with one encoder,
    its weights and input share theirs."""
    found: dict[str, int] = {}
    for name, member in config.members.items():
        stage, shown = config.stages_of(name)[0], config.input_of(name).model_dump_json()
        own = [member.encoder, member.encoder_weights, models[name].features, stage.views, shown]
        found[repr(own)] = 2 * size.num_train * (stage.views or 0) * models[name].features
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
