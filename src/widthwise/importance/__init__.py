"""Networks already trained: scores, order, allocation, compensation, merging, masks.

    scores = importance.reconstruction(net, batches, criterion)      # {"fc1": (256,), ...}
    widths = importance.allocate(net, scores, max_bytes="300kB")
    importance.order(net, scores)                                    # every width is now a prefix
    small = net.cut(widths)
    importance.compensate(small, net, widths, batches)               # the rest takes over

| score | what it estimates | unit | needs |
|---|---|---|---|
| `chance` | nothing | | |
| `magnitude` | the L1 or L2 norm of the weights | of weights | |
| `activation` | how large, or how varied, a feature's values are | of values | inputs |
| `taylor` | the squared first-order change of the loss | loss squared | batches, loss |
| `obd` | the second-order change of the loss | loss | batches, loss |
| `obd_sd` | the same plus its spread over batches | loss | batches, loss |
| `damage` | the loss without the feature minus that with it | loss | batches, loss |
| `reconstruction` | what of `obd` the features that stay do not explain | loss | batches, loss |

`chance`, `magnitude`, `taylor`, `obd` and `obd_sd` also score single weights, `of="weights"`, for
`keep` and `prune`; `gradient_magnitude` scores them for `bits.quantize`, and `few_values` says how
many values each tensor needs. All go through the batches once, in evaluation mode, change nothing,
and hold a few numbers for each thing scored. The loss is a criterion (outputs, target) -> mean over
the samples. All raise ScoreError when there is no batch, when the loss cannot be computed or does
not depend on the network, and when a score is not a number.
"""

from widthwise.importance.allocate import allocate, allocated_ladder
from widthwise.importance.compensate import compensate
from widthwise.importance.damage import damage
from widthwise.importance.masks import held_at_zero, keep, prune, zeros_of
from widthwise.importance.merge import merge
from widthwise.importance.order import order
from widthwise.importance.readings import activation, moments
from widthwise.importance.reconstruction import reconstruction
from widthwise.importance.scores import averaged, chance, magnitude, obd, obd_sd, taylor
from widthwise.importance.sensitivity import few_values, gradient_magnitude

__all__ = [
    "activation",
    "allocate",
    "allocated_ladder",
    "averaged",
    "chance",
    "compensate",
    "damage",
    "few_values",
    "gradient_magnitude",
    "held_at_zero",
    "keep",
    "magnitude",
    "merge",
    "moments",
    "obd",
    "obd_sd",
    "order",
    "prune",
    "reconstruction",
    "taylor",
    "zeros_of",
]
