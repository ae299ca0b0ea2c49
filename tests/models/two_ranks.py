"""Started by test_parts.py on two ranks: every part trains two steps under DDP.

A parameter without a gradient would stop the second step; weights of 0 must leave none behind.
"""

from __future__ import annotations

import torch
from accelerate import Accelerator

from distseg.config.load import parse_config
from distseg.config.member import MemberConfig
from distseg.distributed import make_accelerator
from distseg.functional.deep_supervision import deep_loss
from distseg.functional.losses import weighted_sum
from distseg.models.build import build_model
from tests.models.parts import MEMBERS
from tests.tiny import tiny_tree


def train(accelerator: Accelerator, member: MemberConfig) -> None:
    """Two steps on images of an odd size; all gradients are there, and equal on both ranks."""
    torch.manual_seed(0)
    model = build_model(member, 1, 1, (37, 45))
    ddp = accelerator.prepare(model)
    loss = weighted_sum({"bce": 1.0}, "binary")
    valid = torch.ones(2, 37, 45, dtype=torch.bool)
    for step in range(2):
        torch.manual_seed(10 * step + accelerator.process_index)
        target = torch.zeros(2, 1, 37, 45)  # no object: the deep heads' part is weighted 0
        logits, image_logits, *deep = ddp(torch.randn(2, 1, 37, 45))
        total = loss(logits, target, valid).sum()
        if image_logits is not None:
            total = total + 0.0 * image_logits.sum()
        if deep:
            total = total + 0.1 * deep_loss(loss, deep, target, valid).sum()
        model.zero_grad(set_to_none=True)
        accelerator.backward(total)
        lacking = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert not lacking, lacking
        norms = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None])
        both = accelerator.gather(norms[None])
        assert torch.isfinite(both).all() and torch.equal(both[0], both[1])
    accelerator.free_memory()


def main() -> None:
    torch.set_num_threads(1)
    accelerator = make_accelerator(parse_config(tiny_tree(), "test"), cpu=True)
    assert accelerator.num_processes == 2
    for name, entry in MEMBERS.items():
        train(accelerator, MemberConfig(**entry))
        if accelerator.is_main_process:
            print("trained", name, flush=True)


if __name__ == "__main__":
    main()
