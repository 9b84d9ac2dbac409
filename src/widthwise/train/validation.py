"""How good a network under training is, measured by all processes together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from widthwise.graph.sharded import whole
from widthwise.measure.metric import outputs_for
from widthwise.train.batches import in_order, placed
from widthwise.train.job import Job

if TYPE_CHECKING:
    from accelerate import Accelerator


@torch.no_grad()
def validated(job: Job, accelerator: Accelerator) -> float | None:
    """The metric of the network as it is, at full width; None where nothing is to be measured.

    Every process measures its share of the data, and sums are added up, in float64: the same on all
    of them, and up to rounding what one process measures. The network is left in evaluation mode.
    """
    if job.metric is None or job.valid is None:
        return None
    job.net.eval()
    share = (accelerator.process_index, accelerator.num_processes)
    batches = in_order(job.valid, job.recipe.batch_size, job.seed, share, job.workers)
    sums = torch.zeros(2, dtype=torch.float64, device=accelerator.device)
    with whole(job.net):
        for inputs, target in batches:
            with accelerator.autocast():
                outputs = outputs_for(job.net, placed(inputs, accelerator.device))
            total, count = job.metric.batch(outputs, placed(target, accelerator.device))
            sums[0] += total
            sums[1] += count
    total, count = accelerator.reduce(sums, "sum").tolist()
    return job.metric.finish(total / count)
