"""`distseg doctor`: whether this machine can do it, and what to mend. A line a check."""

from __future__ import annotations

import json
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psutil

from distseg.config.schema import Config
from distseg.jobs.hardware import (
    Slot,
    make_slots,
    num_cores,
    query_gpus,
    torch_has_cuda,
    visible_gpus,
)
from distseg.jobs.job import (
    JOB_MARK,
    Job,
    end_processes,
    launch_command,
    launch_environment,
    write_launch_yaml,
)
from distseg.jobs.versions import cpu_name, package_versions
from distseg.records.log import counted
from distseg.records.paths import Run
from distseg.run.plan import amount, free_bytes

Line = tuple[str, str, str]  # ok | warn | fail, what was found, what to do
GIGA = 10**9
BF16_FLAGS = {"amx_bf16", "avx512_bf16", "bf16"}
LAUNCH_TIMEOUT_S = 120

# What to import of each package, the core's and those of the extras.
MODULES = {
    "torch": "torch", "torchvision": "torchvision", "accelerate": "accelerate", "timm": "timm",
    "segmentation-models-pytorch": "segmentation_models_pytorch",
    "albumentations": "albumentations", "opencv-python-headless": "cv2", "numpy": "numpy",
    "scipy": "scipy", "pillow": "PIL.Image", "pydantic": "pydantic", "safetensors": "safetensors",
}  # fmt: skip
EXTRA_MODULES = {
    "ray": "ray.tune", "optuna": "optuna", "matplotlib": "matplotlib", "deepspeed": "deepspeed",
}  # fmt: skip
IMPORTED = "distseg-imported "
IMPORT_ALL = f"""\
import importlib, json, sys
for name, module in json.loads(sys.argv[1]).items():
    problem = ""
    try:
        importlib.import_module(module)
    except BaseException as error:
        problem = " ".join(f"{{type(error).__name__}}: {{error}}".split())[:300]
    print(f"\\n{IMPORTED}" + json.dumps([name, problem]), flush=True)
"""

# Two ranks add up: each must see the other, or training would run twice, alone.
TWO_RANKS = """\
import torch
from accelerate import Accelerator
state = Accelerator(cpu=True)
total = state.reduce(torch.tensor([state.process_index + 1]), reduction="sum")
assert state.num_processes == 2 and int(total) == 3, (state.num_processes, total)
"""


def examine(config: Config | None, *, launch: bool = False) -> int:
    """Print all checks. Exit status: 1 when one failed, else 0."""
    checks: list[Callable[[], Iterator[Line]]] = [_python, _packages, _cpu, _gpus, _limits, _disk]
    if config is not None:
        checks.append(lambda: _data(config))
        checks.append(lambda: _compute(config))
    if launch:
        checks.append(_launch)
    failed = False
    for check in checks:
        for grade, found, advice in check():
            failed |= grade == "fail"
            print(f"{grade:<5}{found}" + (f" -> {advice}" if advice else ""), flush=True)
    return 1 if failed else 0


def _python() -> Iterator[Line]:
    good = sys.version_info >= (3, 11)
    text = f"Python {platform.python_version()} on {platform.platform()}"
    yield ("ok" if good else "fail"), text, "" if good else "needs Python 3.11 or newer"
    if sys.platform != "linux":
        yield "warn", f"{sys.platform}: jobs of a killed run end within seconds on Linux only", ""


def _packages() -> Iterator[Line]:
    """Each package is imported: an installed one may lack a library, or fit no other. All in one
    process of their own, since a broken one may take its process with it."""
    installed = {**package_versions(MODULES), **package_versions(EXTRA_MODULES)}
    present = [name for name, version in installed.items() if version is not None]
    problems = import_problems({name: (MODULES | EXTRA_MODULES)[name] for name in present})
    for name, version in installed.items():
        if name in problems:
            what = f"{name} {version} cannot be imported: {problems[name]}"
            yield "fail", what, f"pip install --force-reinstall {name}"
        elif version is not None:
            yield "ok", f"{name} {version}", ""
        elif name in MODULES:
            yield "fail", f"{name}: not installed", f"pip install {name}"
    yield from _torch_build()


def _torch_build() -> Iterator[Line]:
    if torch_has_cuda() and not query_gpus():
        yield (
            "ok",
            "torch is a build for CUDA, which works on a CPU too",
            "the one without CUDA is 5 GB smaller: pip install uv; "
            "uv pip install --torch-backend=cpu --reinstall torch torchvision",
        )


def import_problems(modules: Mapping[str, str]) -> dict[str, str]:
    """{package: why it cannot be imported, on a line}. modules: what to import, by package."""
    command = [sys.executable, "-c", IMPORT_ALL, json.dumps(modules)]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith(IMPORTED)]
    said: dict[str, str] = dict(json.loads(line.removeprefix(IMPORTED)) for line in lines)
    problems = {name: problem for name, problem in said.items() if problem}
    if left := [name for name in modules if name not in said]:
        problems[left[0]] = f"it ends Python (exit status {done.returncode})"
        problems |= import_problems({name: modules[name] for name in left[1:]})
    return problems


def _cpu() -> Iterator[Line]:
    memory = psutil.virtual_memory()
    cores = num_cores()
    yield (
        "ok",
        f"{counted(cores, 'core')}, {cpu_name()}, {amount(memory.available)} memory available",
        "",
    )
    if memory.available < 2 * GIGA:
        yield "warn", "less than 2 GB of memory is available", "end other programs"
    native = bool(BF16_FLAGS & _cpu_flags())
    yield "ok", f"bf16 on CPU: {'native' if native else 'no; precision auto takes fp32'}", ""


def _cpu_flags() -> set[str]:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    named = (line for line in lines if line.lower().startswith(("flags", "features")))
    return set(next(named, "").partition(":")[2].split())


def _gpus() -> Iterator[Line]:
    present, usable = query_gpus(), visible_gpus()
    for gpu in usable:
        yield "ok", f"GPU {gpu.device}: {gpu.name}, {amount(gpu.memory)}", ""
    if present and not torch_has_cuda():
        yield (
            "fail",
            f"{counted(len(present), 'GPU')}, but torch is a CPU build",
            "install torch for CUDA",
        )
    elif present and not usable:
        hidden = f"{counted(len(present), 'GPU')} hidden"
        yield "warn", hidden, "unset CUDA_VISIBLE_DEVICES and ACCELERATE_USE_CPU"
    elif not present:
        yield "ok", "no GPU: training runs on the CPU", ""


def _limits() -> Iterator[Line]:
    shared = Path("/dev/shm")
    if shared.is_dir():
        size = shutil.disk_usage(shared).total
        advice = "loader processes need it: docker run --shm-size=8g, or compute.workers=0"
        small = size < GIGA
        yield ("warn" if small else "ok"), f"/dev/shm: {amount(size)}", advice if small else ""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = soft != resource.RLIM_INFINITY and soft < 1024
    yield ("warn" if few else "ok"), f"open files: {soft}", "ulimit -n 4096" if few else ""


def _disk() -> Iterator[Line]:
    free = free_bytes(Path("runs"))
    low = free < 5 * GIGA
    advice = "`distseg plan` says what a run needs; --out takes another disk"
    yield ("warn" if low else "ok"), f"disk: {amount(free)} free here", advice if low else ""


def _data(config: Config) -> Iterator[Line]:
    """The data of a config in which no mistake was found."""
    if config.data.format == "synthetic":
        yield "ok", "data: synthetic, made on the spot", ""
        return
    from distseg.data.layouts import layout

    form = layout(config.data.format)
    train, test = form.train(config), form.test(config)
    tests = counted(len(test), "test image")
    yield "ok", f"data: {len(train)} train and {tests} in {config.data.root}", ""
    bad = [row for row in train if row.problem]
    if bad:
        yield (
            "warn",
            f"data: {counted(len(bad), 'bad row')} ({bad[0].problem})",
            "distseg inspect CONFIG",
        )


def _compute(config: Config) -> Iterator[Line]:
    if config.compute.executor == "ray":
        from distseg.doctor.ray import examine_cluster

        yield from examine_cluster(config.compute)
        return
    slots = make_slots(config.compute, visible_gpus(), num_cores())
    first = slots[0]
    each = f"{counted(first.processes, 'rank')} each, {counted(first.threads, 'thread')} a rank"
    yield "ok", f"{counted(len(slots), 'job')} at a time, {each}", ""


def _launch() -> Iterator[Line]:
    """Really start two gloo ranks, the way that jobs are started."""
    with tempfile.TemporaryDirectory() as folder:
        script, run = Path(folder) / "two_ranks.py", Run(Path(folder))
        script.write_text(TWO_RANKS, encoding="utf-8")
        slot, job = Slot(0, (), 2, 1), Job("doctor", (), run.folder / "launch.log")
        command = launch_command(job, slot, write_launch_yaml(run))
        command = [*command[: command.index("-m", 3)], str(script)]
        mark = uuid.uuid4().hex
        done = _try(command, launch_environment(slot, run, mark))
        end_processes(JOB_MARK, mark, 0.0)  # ranks that hang sit in sessions of their own
    if done is None:
        yield "ok", "a launch of two CPU ranks works", ""
    else:
        yield "fail", f"a launch of two CPU ranks failed: {done}", "allow connections to localhost"


def _try(command: list[str], environment: dict[str, str]) -> str | None:
    """None when the command succeeds, else the last line that it wrote."""
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=LAUNCH_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {LAUNCH_TIMEOUT_S} s"
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return None if done.returncode == 0 else (lines or ["no output"])[-1]
