"""Forward and backward pass of a micro-batch as a CUDA graph: one call of the host, not a thousand.

A step of 64 images of 128 x 128 keeps an H100 busy for half of the time that a host needs to launch
its kernels one by one (benchmarks/gpu/README.md). A graph (https://pytorch.org/docs/stable/notes/
cuda.html#cuda-graphs) records them once per stage, and replays them on other pixels: the inputs are
copied to where it reads them, and it adds to gradients that stay where they are. Clipping and the
optimizer's step, which decide by the numbers, stay outside; so does all that has no fixed shape.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)
WARM_UP = 3  # passes before the capture: kernels are searched for, memory is taken
ROOM = 0.4  # of the memory of a job: a graph keeps what a pass needs, beside what evaluates

Pass = Callable[[Mapping[str, Tensor]], Tensor]


class Captured(NamedTuple):
    """A graph, the tensors that it reads, and the one that it leaves."""

    graph: torch.cuda.CUDAGraph
    inputs: dict[str, Tensor]
    output: Tensor


class GraphedPass:
    """A pass that adds to the gradients of a model, replayed as a CUDA graph.

    Where it cannot be captured, because something in it waits for the device or because it needs
    more than ROOM of the job's memory, its kernels are launched one by one, as without this class.
    """

    def __init__(
        self, run: Pass, module: nn.Module, device: torch.device, share: float = 1.0
    ) -> None:
        """run: from tensors on the host or the device; adds gradients, and returns a tensor ().
        share: of the device that the job has, at most 1."""
        self.run, self.module, self.device, self.share = run, module, device, share
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.gradients: list[Tensor] = []
        self.captured: dict[Any, Captured] = {}
        self.refused = False

    def __call__(self, tensors: Mapping[str, Tensor], *, first: bool, mode: bool) -> Tensor:
        """Add the gradients of a micro-batch. first: of its step, before which there are none.
        mode: what else than shapes makes another graph, as a frozen encoder does; the graphs of
        another mode go, since a stage does not come back to it."""
        if self.refused:
            return self.run(tensors)
        key = (mode, *(tensor.shape for tensor in tensors.values()))
        if key not in self.captured and not self._capture(key, tensors):
            return self.run(tensors)
        if first:
            self._take_gradients()
        graph, inputs, output = self.captured[key]
        for name, tensor in tensors.items():
            inputs[name].copy_(tensor, non_blocking=True)
        graph.replay()
        return output

    def _take_gradients(self) -> None:
        """The gradients are zeros, in the memory that the graphs add to: whoever took the step
        before has put them away."""
        if not self.gradients:
            self.gradients = [torch.zeros_like(p) for p in self.parameters]
        torch._foreach_zero_(self.gradients)
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient

    def _forget_others(self, mode: bool) -> None:
        """Drop the graphs of another mode: each keeps the memory that its pass needs."""
        others = [key for key in self.captured if key[0] != mode]
        if others:
            torch.cuda.synchronize(self.device)  # they may still run
        for key in others:
            del self.captured[key]

    def _capture(self, key: Any, tensors: Mapping[str, Tensor]) -> bool:
        """Whether it could be captured. Weights, running statistics, gradients and the random
        numbers to come are afterwards as they were."""
        self._forget_others(key[0])
        grads = [parameter.grad for parameter in self.parameters]
        buffers = [buffer.clone() for buffer in self.module.buffers()]
        random = torch.cuda.get_rng_state(self.device)
        inputs = {name: tensor.to(self.device) for name, tensor in tensors.items()}
        self._take_gradients()
        problem = self._warm_up(inputs)
        if not problem:
            graph = torch.cuda.CUDAGraph()
            # thread_local: the loader's thread pins memory meanwhile
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                output = self.run(inputs)
            self.captured[key] = Captured(graph, inputs, output)
        for buffer, kept in zip(self.module.buffers(), buffers, strict=True):
            buffer.data.copy_(kept)
        for parameter, grad in zip(self.parameters, grads, strict=True):
            parameter.grad = grad
        torch.cuda.set_rng_state(random, self.device)
        if problem:
            self.refused = True
            self.captured.clear()
            logger.info("no CUDA graph, each kernel is launched by the host: %s", problem)
        return not problem

    def _warm_up(self, inputs: Mapping[str, Tensor]) -> str:
        """Run the pass on a stream of its own. Returns why it shall not be captured, or ""."""
        torch.cuda.reset_peak_memory_stats(self.device)
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self.run(inputs)
            # Asked before the capture: one that fails leaves torch's random generator behind as if
            # it were still being captured.
            torch.cuda.set_sync_debug_mode("error")
            try:
                self.run(inputs)
            except RuntimeError as error:
                return str(error).splitlines()[0]
            finally:
                torch.cuda.set_sync_debug_mode("default")
        torch.cuda.current_stream(self.device).wait_stream(stream)
        torch.cuda.synchronize(self.device)
        peak = torch.cuda.max_memory_allocated(self.device)
        torch.cuda.empty_cache()  # what the passes have taken; the graph takes its own
        total = self.share * torch.cuda.get_device_properties(self.device).total_memory
        if peak > ROOM * total:
            return f"a pass takes {peak / 2**30:.0f} of the job's {total / 2**30:.0f} GB"
        return ""
