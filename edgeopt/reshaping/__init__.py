"""Machinery under the passes that compute the same, or nearly, with other layers: factors, sums folded, activations.

Where pruning takes channels away, reshaping leaves what a layer reads and makes and changes what lies between.
"""
