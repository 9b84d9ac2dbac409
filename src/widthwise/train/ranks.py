"""What the processes of a distributed training do together; where there is one, nothing.

    step = parallel(accelerator, StepLoss(net, loss), shard=False)   # or sharded: FSDP2
    with unsynced(step): ...                                         # gradients stay where they are
    agree(accelerator, settings)             # TrainingError: processes started with other settings

Every process knows its batches and the widths of a step by itself (both are functions of seed and
step), so all that they exchange are gradients, sums of metrics, and what is below.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

from widthwise.errors import TrainingError
from widthwise.train.state import state_of

if TYPE_CHECKING:
    from accelerate import Accelerator
    from accelerate.state import PartialState


def parallel(accelerator: Accelerator, step: nn.Module, *, shard: bool) -> nn.Module:
    """A step's loss on all processes, which begin with the weights of the first.

    step: a module whose forward gives a loss. shard: its parameters become shards, in place
    (FSDP2); otherwise every process has all of them (DistributedDataParallel).

    Raises TrainingError where Accelerate was told to use an engine of its own, or does not see that
    there are several processes.
    """
    if several() and accelerator.num_processes == 1:
        raise TrainingError(
            "Accelerate does not see the other processes of this training, and each would train by "
            "itself; give fit(run=RunConfig(cpu=True)), or start one process only."
        )
    kind = str(accelerator.distributed_type).rpartition(".")[2]
    if kind in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
        raise TrainingError(
            f"fit does not train with Accelerate's {kind} engine; start it without that, and give "
            "fit(run=RunConfig(shard=True)) for sharded parameters."
        )
    if accelerator.num_processes == 1 or not shard:
        prepared: nn.Module = accelerator.prepare_model(step)
        return prepared
    spread(state_of(step).values())
    fully_shard(step)
    return step


def computing(accelerator: Accelerator, step: nn.Module) -> Any:
    """The context to call a step in: mixed precision, where `parallel` did not see to that."""
    return accelerator.autocast() if isinstance(step, FSDPModule) else nullcontext()


@contextmanager
def unsynced(step: nn.Module) -> Iterator[None]:
    """Inside, gradients add up on each process; the next backward pass outside exchanges them."""
    if isinstance(step, DistributedDataParallel):
        with step.no_sync():
            yield
    elif isinstance(step, FSDPModule):
        step.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            step.set_requires_gradient_sync(True)
    else:
        yield


def agree(accelerator: Accelerator, settings: Mapping[str, Any]) -> None:
    """Raise TrainingError, on every process, where these differ from one process to another.

    settings: JSON values; a name that only some processes have differs, too, where its value is
        not None there.
    """
    if accelerator.num_processes == 1:
        return
    from accelerate.utils import gather_object  # here, as in `processes`

    texts = {n: json.dumps(v, sort_keys=True) for n, v in settings.items() if v is not None}
    mine = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
    found: list[dict[str, str]] = gather_object([mine])  # of any length, as names may differ
    names = sorted({name for each in found for name in each})
    differ = [name for name in names if len({each.get(name) for each in found}) > 1]
    if differ:
        raise TrainingError(
            f"The processes of this training differ in: {', '.join(differ)}; start all of them "
            "with the same arguments and seeds, and with a folder that all of them see."
        )


def digest(tensors: Mapping[str, Tensor]) -> str:
    """A text that differs where one of these tensors, on the CPU, does."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(name.encode())
        found.update(tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


@torch.no_grad()
def spread(tensors: Iterable[Tensor]) -> None:
    """Give all processes the values that tensors have on the first."""
    if not (dist.is_available() and dist.is_initialized()):
        return
    for tensor in tensors:
        dist.broadcast(tensor.detach(), 0)


def several() -> bool:
    """Whether torchrun or accelerate launch started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def without_gpu() -> bool:
    """Whether this is one of several processes that have no GPU, or are to use none.

    Accelerate needs to be told.
    """
    if not several():
        return False
    from accelerate.utils import parse_flag_from_env  # here, as in `processes`

    return not torch.accelerator.is_available() or bool(parse_flag_from_env("ACCELERATE_USE_CPU"))


def processes() -> PartialState | None:
    """The processes that torchrun or accelerate launch started; None where this is the only one."""
    if not several():
        return None
    from accelerate.state import PartialState  # here, for `import widthwise` should be quick

    return PartialState(cpu=without_gpu())


def told(ranks: PartialState | None, number: int) -> int:
    """A number that the first process knows, on all of them, which wait for it."""
    if ranks is None:
        return number
    value = torch.tensor(number, device=ranks.device)
    spread([value])
    return int(value)


def is_first() -> bool:
    """Whether this is the process that writes and prints: the only one, or the first of several."""
    ranks = processes()
    return ranks is None or bool(ranks.is_main_process)
