"""The machinery under the pruning passes: groups of coupled channels, their importance, what stays, whether it holds.

The flow: `groups` traces a network into groups (torch-pruning's dependency graph), `importance` scores the channels of
each, `selection` picks those that stay, `removal` says a choice as structure edits and as a mask, and `soundness` lets
only those groups be pruned where removing is shown to compute what masking computes. Nothing changes the given network.
"""
