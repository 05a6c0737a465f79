"""Machinery under the quantizing passes: from a float ONNX graph to one with QuantizeLinear/DequantizeLinear pairs.

The flow, one file each:

    fold          the graph in a form that can be quantized: named nodes, batch normalization folded, opset 13 or later
    wiring        who makes and who reads each tensor of it
    placement     which tensors get a pair, and who reads it, by the profile that the target's backend declares
    calibration   the range of each of those tensors, streamed from calibration batches
    arithmetic    from ranges to scales and zero points, and from floats to integers
    scheme        all of these choices together: what a calibration, a correction or a training ends in
    insert        the graph with its pairs, integer weights and integer biases

Beside it, in torch, for what tries out or trains: `twin` is the float graph as a module, by the tables of `operators`
(with `windows` and `moves`), `simulation` puts quantized values where pairs would stand, and `adaround`
chooses integers layer by layer on the `rows` of each.

`lint` holds any QDQ graph, as `qdq` reads it, against a profile: by the rules of `lint_weights`, `lint_pairs` and
`lint_joins`.

For float16, `half` chooses the nodes by what fits (`half_values`), `half_cast` writes them, `half_simulation` rounds as
they do; `widen` reads such a graph as float32.

A profile is plain data: nothing here knows a backend. A new way to find ranges is one more file beside `calibration`.
"""
