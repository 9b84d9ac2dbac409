"""Packed files: tensors without zeros, quantized weights as codes, a short manifest."""
