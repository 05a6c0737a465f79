"""The machinery under the pruning passes: groups of coupled channels, their importance, what stays, and whether it holds.

The flow: `groups` traces a network into groups (torch-pruning's dependency graph), `importance` scores the channels of
each, `selection` picks the channels that stay, `removal` says a choice as structure edits and as a mask, and `soundness` keeps
the groups whose removal is proven to leave the same function as masking does. Nothing here changes the network that it is given.
"""
