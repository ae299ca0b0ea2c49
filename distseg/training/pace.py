"""How fast a model trains, is evaluated and predicts here: a few real steps, timed."""

from __future__ import annotations

import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

import torch

from distseg.config.schema import Config
from distseg.distributed import Accelerator, make_accelerator
from distseg.functional.losses import weighted_sum
from distseg.records.paces import Pace
from distseg.records.paths import MemberPaths, Run
from distseg.training.batches import Loaded
from distseg.training.member import Member
from distseg.training.stage import Stage, begin_epoch, set_up_stage, train_step
from distseg.training.state import Progress, save

WARM_UP = 2  # steps that are not counted: memory is taken, kernels are searched
MIN_STEPS, MAX_STEPS = 3, 60
STEPS_S = 3.0  # for the steps of a loss, whatever the start has taken
EVALUATION_S = 2.0  # for evaluation and prediction, whatever the start has taken
TRAINING_SHARE = 0.6  # of the time of a model; the rest evaluates and predicts


def measure_member(config: Config, run: Run, name: str, seconds: float, prepare_s: float) -> Pace:
    """Train, evaluate and predict with model `name` of a prepared run, on throw-away weights.

    One process. seconds: about what it may take; three steps and a batch are taken in any case.
    prepare_s: see `Pace`. torch.OutOfMemoryError: the batch does not fit.
    """
    began = time.perf_counter()
    plain = config.compute.model_copy(update={"zero": 0})
    config = config.model_copy(update={"compute": plain})
    accelerator = make_accelerator(config)
    if accelerator.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as scratch:
        paths = MemberPaths(Path(scratch))
        member = Member(config, run, 0, name, 0, accelerator, paths)
        stage = set_up_stage(member, len(member.stages) - 1)
        first, stages = member.stages[0].loss, [stage]
        if first != stage.config.loss and not stage.graphs:  # the same steps, with another loss
            terms = replace(stage.terms, main=weighted_sum(first.spec, config.task))
            stages.append(replace(stage, terms=terms))
        start_s, *both = step_times(member, stages, began, seconds * TRAINING_SHARE)
        times, firsts = (settled(both[n % len(stages) :: len(stages)]) for n in range(2))
        mark = time.perf_counter()
        save(member, Progress(), stage.engine.state())
        save_s = time.perf_counter() - mark
        left = max(0.0, began + seconds - time.perf_counter())
        evaluate_s, predict_s = evaluation_times(member, config.predict.tta, left)
        saved = sum(t.numel() * t.element_size() for t in member.model.state_dict().values())
        stage.close()
        member.close()
    accelerator.free_memory()
    middle = statistics.median(times)
    return Pace(
        batch_size=member.batch_size, step_s=middle, spread=statistics.pstdev(times) / middle,
        evaluate_s=evaluate_s, predict_s=predict_s, save_s=save_s, start_s=start_s,
        prepare_s=prepare_s, memory=peak_memory(accelerator), saved=saved,
        first_step_s=statistics.median(firsts),
    )  # fmt: skip


def step_times(
    member: Member, stages: Sequence[Stage], began: float, seconds: float,
    source: Callable[[int], Iterator[Loaded]] | None = None,
) -> list[float]:  # fmt: skip
    """Seconds from `began` to the end of the warm-up, and then of each step, until `seconds` from
    `began` are over, and STEPS_S of each stage's steps in any case.

    stages: which differ in their loss alone. The steps are theirs in turn, from the first after the
    warm-up on, so that what slows the machine down for a while slows down all of them.
    source: the micro-batches of an epoch; None: from the stages' loader, as in training.
    """
    source = source or stages[0].batches.epoch
    found: list[float] = []
    mark = began
    for number in count():
        stage = stages[(number - WARM_UP) % len(stages)]
        epoch, step = divmod(number, stage.sampling.steps)
        if step == 0:
            begin_epoch(stage, epoch=stage.config.schedule.epochs)
            batches = source(epoch)
        train_step(member, stage, batches, epoch=epoch, step=step, lr_factor=0.1)
        _wait(member.accelerator)
        now = time.perf_counter()
        if number < WARM_UP - 1:
            continue
        found.append(now - mark)
        mark = now
        own = (len(found) - 1) / len(stages)  # steps of each that are counted
        enough = now - began > max(seconds, found[0] + STEPS_S * len(stages))
        if own >= MAX_STEPS or (own >= MIN_STEPS and enough):
            return found
    raise AssertionError


def settled(times: Sequence[float]) -> list[float]:
    """The later half of the steps: the first after a start may be slower than those to come."""
    return list(times[len(times) // 2 :])


def evaluation_times(member: Member, tta: Sequence[str], seconds: float) -> tuple[float, float]:
    """Seconds an image takes to be evaluated and to be predicted with all views, from as many
    images of a batch, or batches, as the time lets: `seconds`, or EVALUATION_S where it is more."""
    model, evaluator = member.model.eval(), member.evaluator
    predictor = evaluator.predictor([model])
    spent, images = {"plain": 0.0, "views": 0.0}, 0
    began = time.perf_counter()
    end = began + max(seconds, EVALUATION_S)
    for number, (positions, canvas, sizes) in enumerate(evaluator.stream("measuring")):
        num = len(positions)
        if number == 0:  # the first pass makes what the others find ready
            mark = time.perf_counter()
            predictor.native_logits(canvas[:1], sizes[:1], [])
            _wait(member.accelerator)
            first, left = time.perf_counter() - mark, end - time.perf_counter()
            if first > left:  # an image of many tiles: there is no time for more
                return first, first * (1 + len(tta))
            num = min(num, max(1, int(left / first / (2 + len(tta)))))
        for kind, views in (("plain", []), ("views", tta)):
            mark = time.perf_counter()
            natives = predictor.native_logits(canvas[:num], sizes[:num], list(views))
            evaluator.count(natives, positions[:num])
            _wait(member.accelerator)
            spent[kind] += time.perf_counter() - mark
        images += num
        if num < len(positions) or time.perf_counter() > end:
            break
    return spent["plain"] / max(1, images), spent["views"] / max(1, images)


def _wait(accelerator: Accelerator) -> None:
    if accelerator.device.type == "cuda":
        torch.cuda.synchronize()


def peak_memory(accelerator: Accelerator) -> int:
    """Bytes at the highest so far: on the GPU, or of the process."""
    if accelerator.device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
