"""The networks of `nets` made elastic, once for each test process."""

import warnings
from functools import cache

import torch
import torch.utils._pytree as pytree
from torch import Tensor

import widthwise as ww
from nets import net as find
from widthwise.elastic import recalibration


def made(name):
    """(net description, Elastic in eval mode, args, kwargs), the same every time."""
    found = _made(name)
    # Or cuts would have the statistics of data on which tests before have measured.
    recalibration._REMEMBERED.pop(found[1].model, None)
    return found


@cache
def _made(name):
    torch.manual_seed(0)
    described = find(name)
    model = described.build()
    args, kwargs = described.example()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = ww.Elastic(model, args, kwargs)
    _randomise(model)
    return described, net.eval(), args, kwargs


def _randomise(model):
    """Ones and zeros of fresh norms and biases would hide mistakes."""
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
        for name, b in model.named_buffers():
            if name.endswith("running_var"):
                b.add_(torch.rand_like(b))
            elif name.endswith("running_mean"):
                b.add_(0.1 * torch.randn_like(b))


def tensors(outputs):
    """All tensors of a model's output, whatever its form."""
    return [t for t in pytree.tree_leaves(outputs) if isinstance(t, Tensor)]


def run(module, args, kwargs, **more):
    """The output tensors of one call, without gradients and with chance held still."""
    with torch.no_grad():
        torch.manual_seed(1)
        return tensors(module(*args, **kwargs, **more))


def random_widths(net, seed):
    """A random width for every axis, inner axes too."""
    g = torch.Generator().manual_seed(seed)
    return ww.Widths(
        {
            name: int(torch.randint(1, axis.size + 1, (1,), generator=g))
            for name, axis in net.free.items()
        }
    )


def close(ours, theirs, tolerance=1e-5):
    """Whether two lists of tensors agree to rounding."""
    return len(ours) == len(theirs) and all(
        a.shape == b.shape
        and torch.allclose(
            a.double(), b.double(), rtol=tolerance, atol=tolerance * max(1.0, float(b.abs().max()))
        )
        for a, b in zip(ours, theirs, strict=True)
    )


def identical(first, second):
    """The same tensors, bit by bit."""
    a, b = (
        {**dict(m.named_parameters(remove_duplicate=False)), **dict(m.named_buffers())}
        for m in (first, second)
    )
    return a.keys() == b.keys() and all(
        torch.equal(a[n].view(-1).view(torch.uint8), b[n].view(-1).view(torch.uint8)) for n in a
    )
