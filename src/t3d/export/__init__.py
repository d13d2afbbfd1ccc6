"""A trained policy as a controller for other programs: ONNX, C, NumPy."""
