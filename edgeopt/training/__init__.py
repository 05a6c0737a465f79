"""The machinery under the passes that train.

The flow: `shuffling` puts prepared samples where they can be read in any order, `augmentation` varies them, `loop`
trains a network on them with a loss of `losses`, and `accuracy` says what came of it. `fake_quantization` is a network
to train that rounds as the integers of a graph will, and `scales` the steps that it rounds to.
"""
