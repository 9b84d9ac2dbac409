"""Bits: weights in 8 to 2 bits, or as a few shared values, stored in as many bits.

    record = quantization.quantize_(small, quantization.Uniform(4))    # small = net.cut(widths)
    save(net, "small.safetensors", widths=widths, module=small, bits=record)

    trained = quantization.StraightThrough(module, quantization.Uniform(2))
    ...                                      # call trained.step() after the optimizer's
    save(module, "two-bits.safetensors", bits=trained.record)

Nothing runs faster for it: the network that is loaded has float weights, quantized ones. What runs
on 8-bit integers is the ONNX file of `widthwise.export_int8`.
"""

from widthwise.formats import Codebook, Format, Uniform
from widthwise.quantization.quantize import quantizable, quantize_, shared, uniform
from widthwise.quantization.quantized import Quantized, Rounded, Shared
from widthwise.quantization.straight_through import SharedValues, StraightThrough

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
    "quantize_",
    "shared",
    "uniform",
]
