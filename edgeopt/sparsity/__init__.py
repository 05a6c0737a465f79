"""The machinery under the passes that leave a network its shape: weights that are zero, weights that share a value.

`weights` says which weights these passes may touch. `magnitude` picks single ones to set to zero, `two_four` two of
each four along the inputs of a layer, after `permutation` has found an order of channels in which that costs less.
`pattern` looks for two of four in a finished graph, and `codebooks` gives the weights of a graph few values to share.
"""
