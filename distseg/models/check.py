"""What is wrong with a member's network: found by building it without weights, before any job.

Each mistake is one line that begins with its key.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import huggingface_hub
import segmentation_models_pytorch as smp
import timm
import torch
from huggingface_hub import constants
from safetensors import SafetensorError, safe_open
from torch import Tensor

from distseg.config.member import OWN_ENCODER, MemberConfig
from distseg.config.schema import Config
from distseg.models.build import (
    BUILD_ERRORS,
    META_ERRORS,
    SUFFIX,
    SegmentationNet,
    build_model,
    check_encoder,
    check_fixed_size,
    one_line,
    pass_on_meta,
)
from distseg.models.weights import encoder_tensors, fitting, hub_name, is_timm_format
from distseg.records.errors import UserError

HUB_S = 3.0  # seconds that the hub has to accept a connection
KEYS = ("encoder: ", "encoder_weights: ", "decoder.", "arch: ")  # how messages of build.py begin


def mistakes(config: Config, processes: int) -> list[str]:
    """Every mistake of the members' networks; `processes`: ranks of a job."""
    lines: list[str] = []
    for name, member in config.members.items():
        for problem in _of_member(config, name, member, processes):
            dot = "." if problem.startswith(KEYS) else ": "
            lines.append(f"members.{name}{dot}{problem}")
    return list(dict.fromkeys(lines))


def _of_member(config: Config, name: str, member: MemberConfig, processes: int) -> Iterator[str]:
    own = member.arch in OWN_ENCODER
    if not own and (problem := _said(lambda: check_encoder(member.encoder))):
        yield problem
        return
    size = config.input_of(name)
    if problem := _said(lambda: check_fixed_size(member, size, config.predict.tta)):
        yield problem
    model: SegmentationNet | None = None
    try:
        shape = (size.height, size.width)
        model = build_model(member, size.channels, config.num_outputs, shape, pretrained=False)
    except UserError as error:
        yield str(error)
    if member.encoder_weights is not None and not own:
        yield from _weights(member, member.encoder_weights, model)
    if model is not None:
        yield from _training(config, name, model, processes)


def _said(check: Callable[[], object]) -> str:
    """The message of a check that fails, else ""."""
    try:
        check()
    except UserError as error:
        return str(error)
    return ""


# -- training passes ------------------------------------------------------------------------------


def _training(config: Config, name: str, model: SegmentationNet, processes: int) -> Iterator[str]:
    """One pass in training mode for each size that a stage shows, with as many images as a rank
    sees at once where that is a single one: batch normalization needs two values a channel."""
    size, batch = config.input_of(name), config.batch_size_of(name)
    parts = processes * config.train.accumulation
    if batch % parts:
        return  # that is a mistake of its own
    images = batch // parts
    sizes = {
        stage.input_size or (size.height, size.width)
        for number in range(len(config.rounds))
        for stage in config.stages_of(name, number)
    }
    for height, width in sorted(sizes):
        shape = (1 if images == 1 else 2, size.channels, height, width)
        if problem := _fails(model.train(), shape):
            what = f"{images} image{'s' * (images != 1)} of {height}x{width} pixels"
            yield (
                f"cannot train on {what} at a time (batch_size {batch}, accumulation "
                f"{config.train.accumulation}, {processes} processes): {problem}"
            )


def _fails(model: SegmentationNet, shape: tuple[int, ...]) -> str:
    """Why a forward pass of this shape is impossible, else ""."""
    try:
        pass_on_meta(model, shape)
    except META_ERRORS:  # code that needs real numbers, or the mistake: try with numbers
        try:
            with torch.no_grad():
                model(torch.zeros(shape))
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
    if Path(weights).exists() or "/" in weights or "\\" in weights:
        there = "" if Path(weights).exists() else ", and there is no such file"
        yield f"encoder_weights: {weights}: a local file must be a {SUFFIX} file{there}"
        return
    try:
        encoder, tag = hub_name(member.encoder, weights)
    except UserError as error:
        yield str(error)
        return
    if not _is_cached(encoder, tag) and (problem := hub_problem()):
        yield (
            f"encoder_weights: {weights!r} of {member.encoder} is not in the hub's local cache, "
            f"and {problem}. Download the weights where there is a network, and give their path "
            f"here (a local {SUFFIX} file), or null for random weights"
        )


def _file_problem(member: MemberConfig, path: Path, model: SegmentationNet | None) -> str:
    if not path.is_file():
        return "is no file" if path.exists() else "no such file"
    if not os.access(path, os.R_OK):
        return "cannot be read: permission denied"
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


def _is_cached(encoder: str, tag: str) -> bool:
    """Whether the hub's cache on this machine holds the weights, so that no network is needed."""
    if not encoder.startswith("tu-"):
        settings = smp.encoders.encoders[encoder]["pretrained_settings"][tag]
        repo, revision = settings["repo_id"], settings["revision"]
        files = ("model.safetensors", "config.json")
        return all(
            isinstance(huggingface_hub.try_to_load_from_cache(repo, file, revision=revision), str)
            for file in files
        )
    cfg = timm.models.get_pretrained_cfg(encoder.removeprefix("tu-"))
    if cfg is None or not cfg.hf_hub_id:
        return False
    usual = ["model.safetensors", "pytorch_model.bin"]
    names = [cfg.hf_hub_filename] if cfg.hf_hub_filename else usual
    return any(
        isinstance(huggingface_hub.try_to_load_from_cache(cfg.hf_hub_id, name), str)
        for name in names
    )


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
