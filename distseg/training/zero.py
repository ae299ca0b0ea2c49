"""ZeRO 1, 2 and 3 through Accelerate and DeepSpeed: what the ranks share out instead of copying.

Weights stay float32, and bf16 is torch.autocast around the forward pass, as under DDP. DeepSpeed's
own bf16 would cast the model, and BatchNorm's running statistics would lose their small updates.
"""

from __future__ import annotations

import copy
import importlib.util
import logging
import os
import socket
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DeepSpeedPlugin
from accelerate.state import is_initialized
from accelerate.utils import GradientAccumulationPlugin, InitProcessGroupKwargs
from torch import Tensor, nn
from torch.optim import Optimizer

from distseg.config.schema import Config
from distseg.config.training import OptimizerConfig
from distseg.distributed import check_ranks, rank_timeout, resolve_precision
from distseg.jobs.versions import install_hint
from distseg.records.errors import UserError
from distseg.training import deepspeed_internals as internals
from distseg.training.engine import Engine, Update
from distseg.training.optim import build_optimizer

BUCKET = 50_000_000  # elements of a communication buffer: 200 MB; DeepSpeed's own is 2 GB


class ZeroAccelerator(Accelerator):
    """Accelerate hands mixed precision to DeepSpeed; here it is autocast, also in evaluation."""

    bf16 = False

    @property
    def mixed_precision(self) -> str:
        return "bf16" if self.bf16 else "no"

    def autocast(self, autocast_handler: object = None) -> AbstractContextManager[None]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)


def make_zero_accelerator(config: Config) -> Accelerator:
    """The Accelerator of this process group under `compute.zero`, with its DeepSpeedPlugin."""
    if importlib.util.find_spec("deepspeed") is None:
        raise UserError(
            f"compute.zero: {config.compute.zero}: DeepSpeed is not installed: "
            f"{install_hint('deepspeed')}"
        )
    cpu = not torch.cuda.is_available()
    set_environment(os.environ, cpu=cpu)
    device = torch.device("cpu" if cpu else "cuda")
    bf16 = resolve_precision(config.compute.precision, device) == "bf16"
    internals.without_shared_memory_op()
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)  # the loop counts what it skips
    # The second member of a job finds the plugin of the first: Accelerate keeps one a process.
    plugin = None if is_initialized() else DeepSpeedPlugin(deepspeed_config(config, bf16=bf16))
    accelerator = ZeroAccelerator(
        deepspeed_plugin=plugin,
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=config.train.accumulation
        ),
        kwargs_handlers=[
            InitProcessGroupKwargs(backend="gloo" if cpu else "nccl", timeout=rank_timeout(config))
        ],
    )
    accelerator.bf16 = bf16
    return check_ranks(accelerator)


def set_environment(environment: MutableMapping[str, str], *, cpu: bool) -> None:
    """What DeepSpeed reads while it is imported, and the group of a process that is alone."""
    if cpu:
        environment["DS_ACCELERATOR"] = "cpu"
        environment.pop("ACCELERATE_USE_CPU", None)  # it would keep Accelerate from DeepSpeed
    environment.pop("ACCELERATE_CONFIG_DS_FIELDS", None)  # compared by check_launch: accelerate
    # would refuse any launch file that names a stage beside a DeepSpeed config, even the same one
    folder = str(Path(sys.executable).parent)  # ninja lies there, for what DeepSpeed compiles
    if folder not in environment.get("PATH", "").split(os.pathsep):
        environment["PATH"] = os.pathsep.join([folder, environment.get("PATH", "")])
    if "LOCAL_RANK" not in environment:
        alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
        environment.update(alone | {"MASTER_PORT": str(free_port())})


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def deepspeed_config(config: Config, *, bf16: bool) -> dict[str, Any]:
    """DeepSpeed's own config. We count samples and set learning rates ourselves."""
    compute, train = config.compute, config.train
    zero: dict[str, Any] = {"stage": compute.zero}
    zero |= {"reduce_bucket_size": BUCKET, "allgather_bucket_size": BUCKET}
    if compute.offload:
        place = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
        zero |= {"offload_optimizer": place}
        zero |= {"offload_param": dict(place)} if compute.zero == 3 else {}
    return {
        "train_micro_batch_size_per_gpu": 1,  # it only feeds DeepSpeed's speed log
        "gradient_accumulation_steps": train.accumulation,
        "gradient_clipping": train.clip_norm or 0.0,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,  # tested: tests/training/test_zero.py
        "zero_force_ds_cpu_optimizer": False,  # torch's fused AdamW, also on the CPU
        "bf16": {"enabled": False},
        "fp16": {"enabled": False},
        "torch_autocast": {
            "enabled": bf16,
            "dtype": "bfloat16",
            "lower_precision_safe_modules": [],  # gradients cross ranks in float32, as in DDP
        },
    }


class ZeroEngine(Engine):
    """One DeepSpeed engine, around a copy of the member's model, which itself waits on the CPU.

    An engine rewrites the parameters of the model that it is given, and an Accelerator has one
    engine at a time: each stage, and each return to an earlier state, makes a new pair.
    """

    def __init__(
        self, accelerator: Accelerator, model: nn.Module, config: OptimizerConfig, zero: int
    ) -> None:
        """zero: the ZeRO stage, 1 to 3."""
        self.accelerator, self.model, self.config, self.zero = accelerator, model, config, zero
        self._build()

    def _build(self) -> None:
        """All ranks: a new engine with the weights of the member's model."""
        self.close()
        module = copy.deepcopy(self.model.to("cpu"))
        module.to(memory_format=torch.contiguous_format)  # shards are flat; images keep theirs
        optimizer = build_optimizer(self.config, module)
        self.engine, wrapped = self.accelerator.prepare(module, optimizer)
        self.module: nn.Module = self.engine.module
        self.sharded = wrapped.optimizer  # DeepSpeed's, around the shards
        self.optimizer: Optimizer = self.sharded.optimizer  # ours, which sees only shards

    def micro_batch(self, *, last: bool) -> AbstractContextManager[Any]:
        self.engine.set_gradient_accumulation_boundary(is_boundary=last)
        return nullcontext()

    def __call__(self, images_BCHW: Tensor) -> tuple[Any, ...]:
        return self.engine(images_BCHW)

    def backward(self, loss: Tensor) -> None:
        self.engine.backward(loss, scale_wrt_gas=False)

    def step(self, clip_norm: float | None) -> Update:
        """DeepSpeed clips (its config has the same `clip_norm`) and skips non-finite norms."""
        self.engine.step()
        skipped = not self.engine.was_step_applied()
        told = torch.tensor(int(skipped), device=self.accelerator.device)
        return Update(told, told)

    @torch.no_grad()
    def gather(self) -> None:
        """One parameter at a time, so that ZeRO-3's weights need not fit the device at once."""
        from deepspeed.runtime.zero import GatheredParameters

        for name, parameter in self.module.named_parameters():
            with GatheredParameters([parameter]):
                self.model.get_parameter(name).copy_(parameter)
        for name, buffer in self.module.named_buffers():
            self.model.get_buffer(name).copy_(buffer)

    @contextmanager
    def placed(self) -> Iterator[None]:
        self.model.to(self.accelerator.device)
        yield
        self.model.to("cpu")

    def state(self) -> dict[str, Any]:
        with self._shards():
            return self.optimizer.state_dict()

    def load(self, tree: dict[str, Any]) -> None:
        self._build()
        if tree.get("optimizer"):
            with self._shards():
                self.optimizer.load_state_dict(tree["optimizer"])

    def _shards(self) -> AbstractContextManager[None]:
        """ZeRO-3 takes its shards out of the optimizer's groups between two steps."""
        return internals.shards_in_groups(self.sharded) if self.zero == 3 else nullcontext()

    def close(self) -> None:
        self.accelerator.free_memory()
        for name in ("engine", "module", "sharded", "optimizer"):
            self.__dict__.pop(name, None)  # the next engine needs their memory
