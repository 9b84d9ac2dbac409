"""`StructuralDropout`: the method as a layer, for those who place it by hand.

    self.drop = StructuralDropout(p=0.5)         # after a hidden layer: (N, H), (N, C, H, W), ...
                                                 # in front of its activation, or behind
    self.drop = StructuralDropout(dim=-1)        # features last: (N, T, H)

    model.train()                                # each call cuts the whole batch at one drawn width
    model.eval()                                 # does nothing
    model.drop.width = 64                        # eval(): as if only 64 features were there

It shows what a width would do; it does not make the network smaller. `Elastic` captures a model
with these layers as if they were not there, and then cuts it for real:

    net = Elastic(model, (x,), draw=Draw(scale=True))    # scale as the layer's, where it stands
    small = net.cut({"fc1": 64})                         # computes what layer width 64 computes

In front of an operator that makes something of zeros, such as a sigmoid, no cut can compute that,
and `Elastic` refuses it: place the layer behind.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from widthwise.errors import WidthError
from widthwise.graph.capture.agreement import elastic_draws
from widthwise.sampling.draws import Draw, drawn_width, uniforms


class StructuralDropout(nn.Module):
    """Zeroes all features from a drawn index on, for the whole batch (Knodt 2022).

    forward: any shape with at least `dim` dims -> the same shape and dtype.

    A draw is a function of (seed, step); every call in train mode advances `step`. Neither is in
    the `state_dict`: to resume in your own loop, save both numbers and set them again (`fit` does).

    Args:
        p: probability of a cut.
        lowest: the fewest features that a cut keeps; no more than these stay whole.
        step: a cut keeps lowest, lowest + step, ... features, drawn uniformly and always fewer
            than there are.
        dim: of the features, 1 in (N, H) and (N, C, H, W), -1 in (N, T, H).
        scale: multiply what is kept by features / kept, so that sums downstream keep their size.
        seed: of the draws; None takes one from torch's global generator, so that the layers of a
            model draw independently and `torch.manual_seed` repeats them all.

    Raises:
        WidthError: When `width` exceeds the features there are, and when the input has no such dim.
        ValueError: For a probability, count or dim out of range.
    """

    def __init__(
        self,
        p: float = 0.5,
        lowest: int = 1,
        step: int = 1,
        dim: int = 1,
        scale: bool = True,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        if isinstance(dim, bool) or not isinstance(dim, int) or dim == 0:
            raise ValueError(f"dim is {dim!r}; give the dim of the features, 0 being the batch's.")
        self.draw = Draw(p=p, lowest=lowest, step=step, law="uniform", shared=False, scale=scale)
        self.dim = dim
        self.seed = int(torch.randint(2**31, ()).item()) if seed is None else seed
        self.step = 0
        self._width: int | None = None

    @property
    def width(self) -> int | None:
        """Features kept in eval mode, None for all. Setting it below 1 raises WidthError."""
        return self._width

    @width.setter
    def width(self, value: int | None) -> None:
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, int) or value < 1
        ):
            raise WidthError(f"The width is {value!r}; give an integer of at least 1, or None.")
        self._width = value

    def forward(self, x: Tensor) -> Tensor:
        if elastic_draws():
            return x
        if not -x.dim() <= self.dim < x.dim():
            raise WidthError(
                f"The input has {x.dim()} dims and no dim {self.dim}; give StructuralDropout the "
                "dim that holds the features."
            )
        features = x.shape[self.dim]
        return self._cut(x, self._drawn(features) if self.training else self._chosen(features))

    def _drawn(self, features: int) -> int:
        cut, place = uniforms(self.seed, (self.step, 0), 2)
        self.step += 1
        return drawn_width(features, self.draw, place) if cut < self.draw.p else features

    def _chosen(self, features: int) -> int:
        if self._width is None:
            return features
        if self._width > features:
            raise WidthError(f"The width is {self._width}; give 1 to {features}, or None.")
        return self._width

    def _cut(self, x: Tensor, width: int) -> Tensor:
        features = x.shape[self.dim]
        if width == features:
            return x
        kept = x.narrow(self.dim, 0, width)
        if self.draw.scale:
            kept = kept * (features / width)
        after = x.dim() - 1 - self.dim % x.dim()  # F.pad counts dims from the last
        return F.pad(kept, (0, 0) * after + (0, features - width))

    def extra_repr(self) -> str:
        d = self.draw
        return f"p={d.p}, lowest={d.lowest}, step={d.step}, dim={self.dim}, scale={d.scale}"
