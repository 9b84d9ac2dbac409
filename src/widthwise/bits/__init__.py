"""Bits: weights in 8 to 2 bits, or as a few shared values, stored in as many bits.

    record = bits.quantize(small, bits.Uniform(4))            # small = net.cut(widths)
    save(net, "small.safetensors", widths=widths, module=small, bits=record)

    trained = bits.StraightThrough(module, bits.Uniform(2))   # trained.step() after the optimizer's
    save(module, "two-bits.safetensors", bits=trained.record)

Nothing runs faster for it: the network that is loaded has float weights, quantized ones. What runs
on 8-bit integers is the ONNX file of `widthwise.export_int8`.
"""

from widthwise.bits.quantize import quantizable, quantize, shared, uniform
from widthwise.bits.quantized import Quantized, Rounded, Shared
from widthwise.bits.straight_through import SharedValues, StraightThrough
from widthwise.formats import Codebook, Format, Uniform

__all__ = [
    "Codebook",
    "Format",
    "Quantized",
    "Rounded",
    "Shared",
    "SharedValues",
    "StraightThrough",
    "Uniform",
    "quantizable",
    "quantize",
    "shared",
    "uniform",
]
