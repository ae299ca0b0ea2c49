"""What is wrong with a member's network: found by building it without weights, before any job.

Each mistake is one line that begins with its key.
"""

from __future__ import annotations

import functools
import math
import os
import socket
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import huggingface_hub
import segmentation_models_pytorch as smp
import timm
import torch
from huggingface_hub import constants
from safetensors import SafetensorError, safe_open
from torch import Tensor

from distseg.config.data import InputConfig
from distseg.config.member import OWN_ENCODER, MemberConfig
from distseg.config.schema import Config
from distseg.models.build import (
    BUILD_ERRORS,
    SUFFIX,
    SegmentationNet,
    build_model,
    one_line,
    pass_on_meta,
)
from distseg.models.encoders import check_encoder, check_fixed_size
from distseg.models.weights import encoder_tensors, fitting, hub_name, is_timm_format
from distseg.records.errors import UserError
from distseg.records.files import path_problem
from distseg.records.log import counted

HUB_S = 3.0  # seconds that the hub has to accept a connection
KEYS = ("encoder: ", "encoder_weights: ", "decoder.", "arch: ")  # how messages of build.py begin
# Values of the images of a pass that computes numbers: seconds, and a few gigabytes of memory.
MAX_VALUES = 2 * 3 * 512 * 512
Size = tuple[int, int]  # height, width


@dataclass(frozen=True, slots=True)
class Network:
    """All that decides whether a member's network can be built and trained.

    weights: whether the encoder's weights must be at hand.
    images: 1, or 2 for any number above, that a rank sees at once; 0: they do not divide.
    sizes: what the stages show it.
    """

    member: MemberConfig
    input: InputConfig
    num_outputs: int
    tta: tuple[str, ...]
    weights: bool
    images: int
    sizes: tuple[Size, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """What is wrong with a network, and with which sizes it cannot be trained, and why."""

    problems: list[str]
    sizes: dict[Size, str]


Tried = dict[str, Found]  # by the network


def mistakes(config: Config, ranks: int, weights: Collection[str], tried: Tried) -> list[str]:
    """Every mistake of the members' networks.

    Args:
        ranks: of a job.
        weights: names of the members whose weights must be at hand.
        tried: what was found before, which is added to: a network is built once for all configs
            that share it.
    """
    lines: list[str] = []
    for name in config.members:
        network = _network(config, name, ranks, name in weights)
        key = repr(network)
        if key not in tried:
            tried[key] = _try(network)
        for problem in [*tried[key].problems, *_untrainable(config, name, ranks, tried[key])]:
            dot = "." if problem.startswith(KEYS) else ": "
            lines.append(f"members.{name}{dot}{problem}")
    return list(dict.fromkeys(lines))


def _network(config: Config, name: str, ranks: int, weights: bool) -> Network:
    size, batch = config.input_of(name), config.batch_size_of(name)
    parts = ranks * config.train.accumulation
    sizes = {
        stage.input_size or (size.height, size.width)
        for number in range(len(config.rounds))
        for stage in config.stages_of(name, number)
    }
    plain = {"folds": None, "stages": None, "batch_size": None, "seed": 0}
    return Network(
        member=config.members[name].model_copy(update=plain),
        input=size,
        num_outputs=config.num_outputs,
        tta=tuple(config.predict.tta),
        weights=weights,
        images=0 if batch % parts else min(batch // parts, 2),
        sizes=tuple(sorted(sizes)),
    )


def _untrainable(config: Config, name: str, ranks: int, found: Found) -> Iterator[str]:
    batch, accumulation = config.batch_size_of(name), config.train.accumulation
    images = counted(batch // (ranks * accumulation), "image")
    for (height, width), problem in found.sizes.items():
        yield (
            f"cannot train on {images} of {height}x{width} pixels at a time (batch_size {batch}, "
            f"accumulation {accumulation}, {counted(ranks, 'process', 'es')}): {problem}"
        )


def _try(network: Network) -> Found:
    """Build a network without weights and show it what its stages will."""
    member, size = network.member, network.input
    own = member.arch in OWN_ENCODER
    if not own and (problem := _said(lambda: check_encoder(member.encoder))):
        return Found([problem], {})
    problems = []
    if problem := _said(lambda: check_fixed_size(member, size, network.tta)):
        problems.append(problem)
    model: SegmentationNet | None = None
    canvas = (size.height, size.width)
    try:
        model = build_model(member, size.channels, network.num_outputs, canvas, pretrained=False)
    except UserError as error:
        problems.append(str(error))
    if network.weights and member.encoder_weights is not None and not own:
        problems += _weights(member, member.encoder_weights, model)
    failed = {} if model is None or not network.images else _try_sizes(network, model)
    return Found(problems, failed)


def _said(check: Callable[[], object]) -> str:
    """The message of a check that fails, else ""."""
    try:
        check()
    except UserError as error:
        return str(error)
    return ""


# -- training passes ------------------------------------------------------------------------------


def _try_sizes(network: Network, model: SegmentationNet) -> dict[Size, str]:
    """Why it cannot train on a size, by the size, from one pass in training mode for each. Batch
    normalization needs two values a channel; two images of the canvas it has seen when it was
    built."""
    channels, canvas = network.input.channels, (network.input.height, network.input.width)
    sizes = [size for size in network.sizes if network.images == 1 or size != canvas]
    shapes = {size: (network.images, channels, *size) for size in sizes}
    if not shapes:
        return {}
    needs_numbers = bool(_fails(lambda: pass_on_meta(model.eval(), (2, channels, *canvas))))
    model.train()
    found = {}
    for size, shape in shapes.items():
        if not needs_numbers:
            problem = _fails(functools.partial(pass_on_meta, model, shape))
        elif math.prod(shape) <= MAX_VALUES:
            problem = _fails(functools.partial(_pass, model, shape))
        else:
            continue  # the job will see
        if problem:
            found[size] = problem
    return found


def _pass(model: SegmentationNet, shape: tuple[int, ...]) -> None:
    with torch.no_grad():
        model(torch.zeros(shape))


def _fails(attempt: Callable[[], object]) -> str:
    """Why a forward pass is impossible, else ""."""
    try:
        attempt()
    except BUILD_ERRORS as error:
        return one_line(error)
    return ""


# -- weights --------------------------------------------------------------------------------------


def _weights(member: MemberConfig, weights: str, model: SegmentationNet | None) -> Iterator[str]:
    """Whether the encoder's weights can be had; a file's header is read, its weights are not."""
    if weights.endswith(SUFFIX):
        if problem := _file_problem(member, Path(weights), model):
            yield f"encoder_weights: {weights}: {problem}"
        return
    problem = path_problem(Path(weights))
    if not problem.startswith("no such") or "/" in weights or "\\" in weights:
        there = f"; this one: {problem.partition('.')[0]}" if problem else ""
        yield f"encoder_weights: {weights}: a local file must be a {SUFFIX} file{there}"
        return
    try:
        encoder, tag = hub_name(member.encoder, weights)
    except UserError as error:
        yield str(error)
        return
    if not is_cached(encoder, tag) and (problem := hub_problem()):
        yield (
            f"encoder_weights: {weights!r} of {member.encoder} is not in the hub's local cache, "
            f"and {problem}. Download the weights where there is a network, and give their path "
            f"here (a local {SUFFIX} file), or null for random weights"
        )


def weights_problem(member: MemberConfig) -> str:
    """Why the pretrained weights that a member names cannot be had, or do not fit; else ""."""
    try:
        model = build_model(member, 3, 1, (128, 128), pretrained=False)
    except UserError as error:
        return str(error)
    weights = str(member.encoder_weights)
    problem = next(_weights(member, weights, model), "")
    is_timm = member.encoder.startswith("tu-") and weights.endswith(SUFFIX)
    return problem or (_timm_misfit(member.encoder, Path(weights)) if is_timm else "")


def _timm_misfit(encoder: str, path: Path) -> str:
    """Why a file is not one of timm's model, by the names of its tensors: timm itself takes what
    there is. A few may be missing: what the encoder leaves out."""
    with safe_open(str(path), framework="pt") as file, torch.device("meta"):
        given = {name.removeprefix("model.") for name in file.keys()}  # noqa: SIM118
        own = timm.create_model(encoder.removeprefix("tu-"), num_classes=0).state_dict()
    lacking = [n for n in own if n not in given and not n.endswith("num_batches_tracked")]
    if 5 * len(lacking) <= len(own):
        return ""
    return f"the file does not fit {encoder}: {len(lacking)} of {len(own)} entries are missing"


def timm_colors(encoder: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the colors, 0..1, that timm's weights of tu-NAME expect."""
    cfg = timm.models.get_pretrained_cfg(encoder.removeprefix("tu-"))
    if cfg is None:
        return (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return tuple(cfg.mean), tuple(cfg.std)


def _file_problem(member: MemberConfig, path: Path, model: SegmentationNet | None) -> str:
    if problem := path_problem(path):
        return problem
    try:
        with safe_open(str(path), framework="pt") as file:
            names = list(file.keys())
            shapes = {name: file.get_slice(name).get_shape() for name in names}
    except (OSError, SafetensorError) as error:
        return f"cannot be read: {one_line(error)}"
    tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    return _misfit(member, tensors, model)


def _misfit(member: MemberConfig, tensors: dict[str, Tensor], model: SegmentationNet | None) -> str:
    """Why the tensors do not fit the encoder. timm's own format is left to timm, which renames."""
    given = encoder_tensors(tensors)
    if model is None or (given is tensors and is_timm_format(member.encoder, tensors)):
        return ""
    encoder = model.net.get_submodule("encoder")
    return _said(lambda: fitting(encoder, given, "")).removeprefix(": ")


def is_cached(encoder: str, tag: str) -> bool:
    """Whether a cache on this machine holds the weights, so that no network is needed."""
    if encoder.startswith("timm-") and _timm_is_cached(encoder.removeprefix("timm-")):
        return True  # smp takes some of these from timm
    if not encoder.startswith("tu-"):
        settings = smp.encoders.encoders[encoder]["pretrained_settings"][tag]
        repo, revision = settings["repo_id"], settings["revision"]
        files = ("model.safetensors", "config.json")
        return all(
            isinstance(huggingface_hub.try_to_load_from_cache(repo, file, revision=revision), str)
            for file in files
        )
    return _timm_is_cached(encoder.removeprefix("tu-"))


def _timm_is_cached(name: str) -> bool:
    cfg = timm.models.get_pretrained_cfg(name)
    if cfg is not None and cfg.hf_hub_id:
        usual = ["model.safetensors", "pytorch_model.bin"]
        files = [cfg.hf_hub_filename] if cfg.hf_hub_filename else usual
        found = [huggingface_hub.try_to_load_from_cache(cfg.hf_hub_id, file) for file in files]
        return any(isinstance(path, str) for path in found)
    file = Path(urlsplit((cfg.url if cfg else None) or "").path).name
    return bool(file) and Path(torch.hub.get_dir(), "checkpoints", file).is_file()


@functools.cache  # one attempt for all members
def hub_problem() -> str:
    """Why nothing can be fetched from the hub, else "". Waits for HUB_S seconds at most."""
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    address = urlsplit(_proxy() or constants.ENDPOINT)
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((str(address.hostname), port), timeout=HUB_S).close()
    except OSError as error:
        return f"there is no network, or {address.hostname} does not answer ({error})"
    return ""


def _proxy() -> str:
    """The proxy that requests to the hub go through, where one is set."""
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        if text := os.environ.get(name):
            return text if "://" in text else f"http://{text}"
    return ""
