"""What an ONNX file says, read without running it, and a drawing of it."""
