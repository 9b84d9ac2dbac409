"""One tiny network for each trait, written as papers and users write them.

    for n in NETS:                      # or net("unet")
        torch.manual_seed(0)
        model = n.build()
        args, kwargs = n.example()
        model(*args, **kwargs)

Nothing here knows of widthwise. Sizes are small and differ where the architecture lets them, so
that one dim taken for another shows. Suffixes of comments on shapes: N batch, L sequence, C
channels, E stream, H heads, D head size.
"""

from nets.attention import ATTENTION
from nets.base import Net
from nets.convolution import CONVOLUTION
from nets.dense import DENSE
from nets.inputs import INPUTS
from nets.operators import OPERATORS
from nets.recurrent import RECURRENT
from nets.routing import ROUTING

NETS: tuple[Net, ...] = (
    *DENSE,
    *CONVOLUTION,
    *ATTENTION,
    *RECURRENT,
    *ROUTING,
    *INPUTS,
    *OPERATORS,
)


def net(name: str) -> Net:
    """The network of this name; raises KeyError."""
    found = {n.name: n for n in NETS}
    if name not in found:
        raise KeyError(f"There is no network {name!r}; there are {', '.join(found)}.")
    return found[name]
