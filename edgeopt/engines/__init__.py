"""TensorRT engines: planned on any machine, built on the one that runs them, bound to it, inspected and run.

`plan` says what is to be built, `build` builds it, `inspection` tells in what precision its layers run, `binding` what
it was built for, and `session` runs it. Precision lives in the ONNX graph alone, so one graph builds on TensorRT 10
and 11. Nothing here imports torch or onnx, or TensorRT before it is needed: a device builds, and a plan never does.
"""
