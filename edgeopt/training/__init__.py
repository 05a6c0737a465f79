"""The machinery under the passes that train.

The flow: `options` are what a recipe says, and `schedule` what follows from them by arithmetic. `shuffling` puts
prepared samples where they can be read in any order, `augmentation` varies them and `mixing` mixes them. `loop` trains
a network on them with a loss of `losses` or `features`, where `place` says, at a rate that `range_test` finds where
none is given; `averaging` and `best` say which weights count, and `accuracy` what came of it. `statistics` finds those
of normalizations again without training. `fake_quantization` is a network to train that rounds as the integers of a
graph will, and `scales` the steps that it rounds to.
"""
