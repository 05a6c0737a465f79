"""The fake of `cuda.bindings`: its `runtime` is all that edgeopt uses."""
