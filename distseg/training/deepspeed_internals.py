"""Every name of DeepSpeed that it does not document, with the reason why it is used.

tests/training/test_deepspeed_internals.py says what each must do, and fails where a new release
does something else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def without_shared_memory_op() -> None:
    """Keep DeepSpeed from compiling its shared-memory all-reduce at the first start on a CPU.

    It takes a minute and a compiler, only inference uses it, and a kill meanwhile leaves a lock
    that the next start waits for. DeepSpeed asks this table before it builds the op; it has no
    switch for it (DS_BUILD_SHM_COMM is read when DeepSpeed itself is installed).
    """
    from deepspeed import ops

    ops.__compatible_ops__["deepspeed_shm_comm"] = False


@contextmanager
def shards_in_groups(optimizer: Any) -> Iterator[None]:
    """Within the block, the groups of the optimizer inside ZeRO-3's hold the rank's shards.

    Between two steps ZeRO-3 takes them out, and Optimizer.state_dict() of empty groups has no
    state. The documented ways to a state are whole checkpoint folders, which a kill leaves half
    written, and single tensors by name, without the steps that the optimizer has counted.
    """
    optimizer._set_fp32_optimizer_param_groups()
    try:
        yield
    finally:
        optimizer._clear_fp32_optimizer_param_groups()
