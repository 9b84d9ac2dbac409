"""Networks for other runtimes: ONNX, at one width or at all of them, in int8, and torch.export."""
