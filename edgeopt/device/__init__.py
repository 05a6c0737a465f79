"""What runs on the device: builds what only it can build. Imports neither torch nor onnx."""
