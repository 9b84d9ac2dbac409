"""How good a network under training is, measured by all processes together."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from widthwise.common.calling import outputs_for
from widthwise.errors import TrainingError
from widthwise.graph.sharded import whole
from widthwise.measure.running import measured
from widthwise.train.batches import in_order, placed
from widthwise.train.job import Job

if TYPE_CHECKING:
    from accelerate import Accelerator


@torch.no_grad()
def validated(job: Job, accelerator: Accelerator) -> float | None:
    """The metric of the network as it is, at full width; None where nothing is to be measured.

    Every process measures its share of the data, and all get the metric of all of it: up to
    rounding what one process measures. The network is left in evaluation mode.

    Raises TrainingError for a metric that does not fit, or is not finite.
    """
    if job.metric is None or job.valid is None:
        return None
    metric, valid = job.metric, job.valid
    job.net.eval()
    several = accelerator.num_processes
    share = (accelerator.process_index, several)

    def batches() -> Iterator[tuple[list[Any], Any]]:
        for inputs, target in in_order(
            valid, job.recipe.batch_size, job.run.seed, share, job.run.workers
        ):
            with accelerator.autocast():
                outputs = outputs_for(job.net, placed(inputs, accelerator.device))
            yield [outputs], placed(target, accelerator.device)

    with whole(job.net):
        (value,) = measured(metric, batches, 1, several > 1)
    if not math.isfinite(value):
        raise TrainingError(
            f"The metric {metric.name!r} on the validation data is {value}; look for classes or "
            "values that these data or the outputs lack, or give another metric."
        )
    return value
