"""A member as one graph with its constants inside: torch.export's format, and ONNX.

    uint8 images on the canvas -> normalize -> the network of each snapshot -> mean of the logits
        -> probabilities, and the mask over the threshold

What cannot be inside, as it depends on the image's own size (borders, scaling, components), is in
the constants that travel with the file.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distseg.config.data import InputConfig
from distseg.data.fit import STRIDE, Fit
from distseg.functional.combine import sigmoid, softmax
from distseg.inference.forward import channel_statistics
from distseg.inference.load import load_snapshot_model
from distseg.records.errors import UserError

logger = logging.getLogger(__name__)

TOLERANCE = 1e-4  # of a logit
OUTPUTS = ("logits", "probabilities", "mask")
PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "torch": ()}
SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}
METADATA = "distseg"  # the entry of an ONNX file; distseg.json among the extra files of a .pt2
# What torch raises for a network that takes one size only, or that it cannot trace.
TRACE_ERRORS = (RuntimeError, ValueError, TypeError, AssertionError, NotImplementedError)


class ExportFailed(RuntimeError):
    """A network could not become a graph, or its graph gives other numbers than torch."""


class MemberGraph(nn.Module):
    """uint8 images (B, C, H, W) -> logits and probabilities float32 (B, K, H, W), mask uint8
    (B, K, H, W) of 0 and 1, for multiclass (B, 1, H, W) of class numbers."""

    mean: Tensor
    std: Tensor

    def __init__(self, models: Sequence[nn.Module], input_config: InputConfig, task: str) -> None:
        super().__init__()
        self.models, self.task = nn.ModuleList(models), task
        self.median = input_config.normalize == "median"
        for name, values in zip(("mean", "std"), channel_statistics(input_config), strict=True):
            self.register_buffer(name, torch.tensor(values).view(1, -1, 1, 1) * 255)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        values = images.float()
        middle = self.mean
        if self.median:  # the lower of two middle values, as torch.median has it
            flat = values.flatten(2).sort(dim=2).values
            middle = flat[:, :, (flat.shape[2] - 1) // 2][:, :, None, None]
        normal = (values - middle) / self.std
        logits = self.models[0](normal)[0]
        for model in self.models[1:]:
            logits = logits + model(normal)[0]
        logits = (logits / len(self.models)).float()
        if self.task == "multiclass":
            mask = logits.argmax(dim=1, keepdim=True)
            return logits, softmax(logits), mask.to(torch.uint8)
        return logits, sigmoid(logits), (logits > 0).to(torch.uint8)


def load_graph(snapshots: Sequence[Path], task: str) -> tuple[MemberGraph, InputConfig]:
    """The graph of a member's snapshots on the CPU, and the input that it wants."""
    loaded = [load_snapshot_model(path, torch.device("cpu"), False) for path in snapshots]
    models, inputs = zip(*loaded, strict=True)
    graph = MemberGraph(models, inputs[0], task).eval().requires_grad_(False)
    return graph, inputs[0]


def check_packages(kind: str) -> None:
    """UserError: a package that the format needs is not installed."""
    lacking = [name for name in PACKAGES[kind] if importlib.util.find_spec(name) is None]
    if lacking:
        raise UserError(
            f"--format {kind}: {', '.join(lacking)} is not installed: pip install 'distseg[export]'"
        )


def write_graph(
    graph: MemberGraph, input_config: InputConfig, images: Sequence[NDArray[np.uint8]],
    constants: dict[str, Any], path: Path, kind: str,
) -> dict[str, Any]:  # fmt: skip
    """Write `path`, run it on real images at two canvas sizes, and compare with torch.

    Args:
        images: uint8 (H, W, C), at native size; one or more.
        kind: "onnx" or "torch".

    Returns:
        sizes: those that were compared; largest_difference: of a logit; any_size: whether it
        takes any height and width that are multiples of 32, or the canvas's alone.

    Raises:
        ExportFailed: torch cannot trace the network, or a logit differs by more than TOLERANCE.
    """
    batches = canvases(input_config, images)
    program, any_size = trace(graph, *batches)
    constants = {**constants, "input": input_config.model_dump(mode="json"), "any_size": any_size}
    (_write_onnx if kind == "onnx" else _write_torch)(program, constants, path)
    checked = batches if any_size else batches[:1]
    difference = max(_difference(graph, _read(path, kind), batch) for batch in checked)
    if not difference <= TOLERANCE:
        raise ExportFailed(
            f"{path.name}: its logits differ from torch's by {difference:.1e}, more than "
            f"{TOLERANCE:.0e}"
        )
    sizes = [list(batch.shape[2:]) for batch in checked]
    return {"sizes": sizes, "largest_difference": difference, "any_size": any_size}


def canvases(input_config: InputConfig, images: Sequence[NDArray[np.uint8]]) -> list[Tensor]:
    """The images stretched to the network's canvas, and to one and a half times its height and
    width: uint8 (N, C, h, w)."""
    own = Fit(input_config).canvas(input_config.height, input_config.width)
    larger = tuple(-(-3 * side // (2 * STRIDE)) * STRIDE for side in own)
    batches = []
    for height, width in (own, larger):
        stretched = {"fit": "resize", "height": height, "width": width, "overlap": None}
        fit = Fit(input_config.model_copy(update=stretched))
        pictures = [fit.forward(image).transpose(2, 0, 1) for image in images]
        batches.append(torch.from_numpy(np.stack(pictures)))
    return batches


def trace(graph: MemberGraph, canvas: Tensor, larger: Tensor) -> tuple[Any, bool]:
    """(an ExportedProgram of any number of images, whether it takes any size).

    Args:
        canvas, larger: images as `canvases` makes them. The larger ones are traced first: a side of
            32 would become a constant, as torch takes one unit of a size for one.
    """
    number = torch.export.Dim("batch", min=1, max=4096)
    sides = {2: STRIDE * torch.export.Dim("h", max=256), 3: STRIDE * torch.export.Dim("w", max=256)}
    reason = ""
    for images, shapes in ((larger, {0: number, **sides}), (canvas, {0: number})):
        batch = images.repeat(2, 1, 1, 1) if len(images) == 1 else images  # nor a batch of one
        try:
            program = torch.export.export(graph, (batch,), dynamic_shapes={"images": shapes})
            return program, images is larger
        except TRACE_ERRORS as error:
            reason = " ".join(str(error).split())[:300]
            logger.info("export of %s: %s", "any size" if images is larger else "one size", reason)
    raise ExportFailed(f"torch cannot trace this network: {reason}")


def _write_torch(program: Any, constants: dict[str, Any], path: Path) -> None:
    extra = {f"{METADATA}.json": json.dumps(constants)}
    torch.export.save(program, path, extra_files=extra)


def _write_onnx(program: Any, constants: dict[str, Any], path: Path) -> None:
    import onnx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of packages about each other
        made = torch.onnx.export(
            program, input_names=["images"], output_names=list(OUTPUTS), verbose=False
        )
    assert made is not None
    made.save(str(path))
    model = onnx.load(str(path), load_external_data=False)
    onnx.helper.set_model_props(model, {METADATA: json.dumps(constants)})
    onnx.save(model, str(path))


def _read(path: Path, kind: str) -> Any:
    """A function from uint8 images (B, C, H, W) to the three outputs, by the file alone."""
    if kind == "torch":
        module = torch.export.load(path).module()
        return lambda images: [output.numpy() for output in module(images)]
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images.numpy()})


@torch.inference_mode()
def _difference(graph: MemberGraph, run: Any, images: Tensor) -> float:
    """The largest difference of a logit between torch and the file."""
    expected, found = graph(images)[0].numpy(), run(images)[0]
    assert found.shape == expected.shape, f"{found.shape} are not {expected.shape}"
    return float(np.abs(found - expected).max())
