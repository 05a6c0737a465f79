"""Many devices at once: which there are and how each is known, shipping to them a few at a time, and how they fare.

inventory   the file that names devices, and pins their keys
reach       whether who answers is that device, speaks our protocol, and is fit to be measured on
ship        a bundle to one device, or to a fleet: canaries first, then batches
bootstrap   edgeopt itself onto a device that has none
field       what one device says of its answers
check       whether devices keep to what was proven before it shipped
"""
