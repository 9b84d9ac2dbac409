"""Networks already trained: scores, order, allocation, reconstruction, merging, masks.

    scores = pruning.output_error(net, batches, criterion)      # {"fc1": (256,), ...}
    widths = pruning.allocate(net, scores, max_bytes="300kB")
    pruning.order_(net, scores)                                    # every width is now a prefix
    small = net.cut(widths)
    pruning.reconstruct_(small, net, widths, batches)               # the rest takes over

| score | what it estimates | unit | needs |
|---|---|---|---|
| `random` | nothing | | |
| `magnitude` | the L1 or L2 norm of the weights | of weights | |
| `activation` | how large, or how varied, a feature's values are | of values | inputs |
| `taylor` | the squared first-order change of the loss | loss squared | batches, loss |
| `obd` | the second-order change of the loss | loss | batches, loss |
| `obd_sd` | the same plus its spread over batches | loss | batches, loss |
| `dropout_ablation` | the loss without the feature minus that with it | loss | batches, loss |
| `output_error` | what of `obd` the features that stay do not explain | loss | batches, loss |

`random`, `magnitude`, `taylor`, `obd` and `obd_sd` also score single weights, `of="weights"`, for
`keep` and `prune`; `gradient_magnitude` scores them for `quantization.quantize_`, and `few_values`
says how many values each tensor needs. `score(net, "obd", ...)` takes any of them by the name that
the command line has for it, and scores of your own (`register_score`).

All go through the batches once, in evaluation mode, change nothing, and hold a few numbers for each
thing scored. The loss is a criterion (outputs, target) -> mean over the samples. All raise
ScoreError when there is no batch, when the loss cannot be computed or does not depend on the
network, and when a score is not a number.
"""

from widthwise.pruning.allocate import allocate, allocated_levels
from widthwise.pruning.masks import held_at_zero, keep, prune_, zeros_of
from widthwise.pruning.merge import merge
from widthwise.pruning.order import order_
from widthwise.pruning.reconstruct import reconstruct_
from widthwise.pruning.scores.activations import activation, moments
from widthwise.pruning.scores.dropout_ablation import dropout_ablation
from widthwise.pruning.scores.output_error import output_error
from widthwise.pruning.scores.registry import score
from widthwise.pruning.scores.sensitivity import few_values, gradient_magnitude
from widthwise.pruning.scores.weights import averaged, magnitude, obd, obd_sd, random, taylor

__all__ = [
    "activation",
    "allocate",
    "allocated_levels",
    "averaged",
    "dropout_ablation",
    "few_values",
    "gradient_magnitude",
    "held_at_zero",
    "keep",
    "magnitude",
    "merge",
    "moments",
    "obd",
    "obd_sd",
    "order_",
    "output_error",
    "prune_",
    "random",
    "reconstruct_",
    "score",
    "taylor",
    "zeros_of",
]
