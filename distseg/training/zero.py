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
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DeepSpeedPlugin
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs
from torch import Tensor, nn
from torch.optim import Optimizer

from distseg.config.schema import ComputeConfig, Config
from distseg.config.training import OptimizerConfig
from distseg.distributed import check_ranks, make_accelerator, resolve_precision
from distseg.records.errors import UserError
from distseg.training.engine import Engine
from distseg.training.member import Member
from distseg.training.optim import build_optimizer

BUCKET = 50_000_000  # elements of a communication buffer: 200 MB; DeepSpeed's own is 2 GB
LAUNCHED = "ACCELERATE_DEEPSPEED_"  # what `accelerate launch` sets from a DeepSpeed YAML


class ZeroAccelerator(Accelerator):
    """Accelerate hands mixed precision to DeepSpeed; here it is autocast, also in evaluation."""

    bf16 = False

    @property
    def mixed_precision(self) -> str:
        return "bf16" if self.bf16 else "no"

    def autocast(self, autocast_handler: object = None) -> AbstractContextManager[None]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)


def training_accelerator(config: Config) -> Accelerator:
    """The Accelerator that trains, DDP's or ZeRO's. UserError: the launch file says another ZeRO
    stage than the config, or DeepSpeed is not installed."""
    check_launch(config.compute, os.environ)
    return make_zero_accelerator(config) if config.compute.zero else make_accelerator(config)


def make_zero_accelerator(config: Config) -> Accelerator:
    """The Accelerator of this process group under `compute.zero`, with its DeepSpeedPlugin."""
    if importlib.util.find_spec("deepspeed") is None:
        raise UserError(
            f"compute.zero: {config.compute.zero}: DeepSpeed is not installed: "
            "pip install '.[deepspeed]' in the checkout"
        )
    cpu = not torch.cuda.is_available()
    set_environment(os.environ, cpu=cpu)
    device = torch.device("cpu" if cpu else "cuda")
    bf16 = resolve_precision(config.compute.precision, device) == "bf16"
    without_compiler()
    first = AcceleratorState._shared_state == {}  # a second member of a job: it has the plugin
    accelerator = ZeroAccelerator(
        deepspeed_plugin=DeepSpeedPlugin(deepspeed_config(config, bf16=bf16)) if first else None,
        gradient_accumulation_steps=config.train.accumulation,
        kwargs_handlers=[InitProcessGroupKwargs(backend="gloo" if cpu else "nccl")],
    )
    accelerator.bf16 = bf16
    return check_ranks(accelerator)


def check_launch(compute: ComputeConfig, environment: Mapping[str, str]) -> None:
    """UserError: the launch file asks for another ZeRO stage or offload than the config."""
    launched = environment.get(f"{LAUNCHED}ZERO_STAGE")
    if environment.get("ACCELERATE_USE_DEEPSPEED", "").lower() != "true" or launched is None:
        return  # a plain launch, as `distseg run` makes it: the config alone decides
    devices = [
        environment.get(f"{LAUNCHED}OFFLOAD_{part}_DEVICE", "none")
        for part in ("OPTIMIZER", "PARAM")
    ]
    offload = "cpu" in devices
    if (int(launched), offload) != (compute.zero, compute.offload):
        file = "launch/accelerate/" + launch_file(compute)
        raise UserError(
            f"compute.zero: {compute.zero}, compute.offload: {str(compute.offload).lower()}: the "
            f"launch file says zero_stage: {launched}, offload: {str(offload).lower()}. Launch "
            f"with {file}, or add compute.zero={launched} compute.offload={str(offload).lower()}"
        )


def launch_file(compute: ComputeConfig) -> str:
    """The file of launch/accelerate/ that belongs to a config."""
    if not compute.zero:
        return "multi_gpu.yaml"
    return f"deepspeed_zero{compute.zero}{'_offload' if compute.offload else ''}.yaml"


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


def without_compiler() -> None:
    """Keep DeepSpeed from compiling its shared-memory all-reduce at the first start on a CPU: it
    takes a minute and a compiler, only inference uses it, and a kill meanwhile leaves a lock."""
    from deepspeed import ops

    ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)  # the loop counts what it skips


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
        "zero_allow_untested_optimizer": True,  # tested here: tests/test_zero.py
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
    """One DeepSpeed engine, around a copy of member.model, which itself waits on the CPU.

    An engine rewrites the parameters of the model that it is given, and an Accelerator has one
    engine at a time: each stage, and each return to an earlier state, makes a new pair.
    """

    def __init__(self, member: Member, config: OptimizerConfig) -> None:
        self.member, self.accelerator, self.config = member, member.accelerator, config
        self._build()

    def _build(self) -> None:
        """All ranks: a new engine with the weights of member.model."""
        self.close()
        module = copy.deepcopy(self.member.model.to("cpu"))
        module.to(memory_format=torch.contiguous_format)  # shards are flat; images keep theirs
        optimizer = build_optimizer(self.config, module)
        self.engine, wrapped = self.accelerator.prepare(module, optimizer)
        self.module: nn.Module = self.engine.module
        self.sharded = wrapped.optimizer  # DeepSpeed's, around the shards
        self.optimizer: Optimizer = self.sharded.optimizer  # ours, which sees only shards

    def part(self, *, last: bool) -> AbstractContextManager[Any]:
        self.engine.set_gradient_accumulation_boundary(is_boundary=last)
        return nullcontext()

    def __call__(self, images_BCHW: Tensor) -> tuple[Any, ...]:
        return self.engine(images_BCHW)

    def backward(self, loss: Tensor) -> None:
        self.engine.backward(loss, scale_wrt_gas=False)

    def step(self, clip_norm: float | None) -> Tensor:
        """DeepSpeed clips (its config has the same `clip_norm`) and skips non-finite norms."""
        self.engine.step()
        skipped = not self.engine.was_step_applied()
        return torch.tensor(int(skipped), device=self.accelerator.device)

    @torch.no_grad()
    def gather(self) -> None:
        """One parameter at a time, so that ZeRO-3's weights need not fit the device at once."""
        from deepspeed.runtime.zero import GatheredParameters

        target = self.member.model
        for name, parameter in self.module.named_parameters():
            with GatheredParameters([parameter]):
                target.get_parameter(name).copy_(parameter)
        for name, buffer in self.module.named_buffers():
            target.get_buffer(name).copy_(buffer)

    @contextmanager
    def placed(self) -> Iterator[None]:
        self.member.model.to(self.accelerator.device)
        yield
        self.member.model.to("cpu")

    def state(self) -> dict[str, Any]:
        with self._shards_in_groups():
            return self.optimizer.state_dict()

    def load(self, tree: dict[str, Any]) -> None:
        self._build()
        if tree.get("optimizer"):
            with self._shards_in_groups():
                self.optimizer.load_state_dict(tree["optimizer"])

    @contextmanager
    def _shards_in_groups(self) -> Iterator[None]:
        """ZeRO-3 takes its shards out of the optimizer's groups between two steps."""
        if self.member.config.compute.zero < 3:
            yield
            return
        self.sharded._set_fp32_optimizer_param_groups()
        yield
        self.sharded._clear_fp32_optimizer_param_groups()

    def close(self) -> None:
        self.accelerator.free_memory()
        for name in ("engine", "module", "sharded", "optimizer"):
            self.__dict__.pop(name, None)  # the next engine needs their memory
