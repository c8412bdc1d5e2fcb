"""Simulated machines: six types by their mechanism, their faults, and the factory around them.

A description (`corpora/synthetic.yaml`) says which machines there are; a clip is drawn from its seed and the clip's own
name, never from the order of drawing. `description` checks it, `signals` holds what sounds are made of, `machines` the
mechanisms, `factory` the background, `clips` puts them together.
"""
