"""Convolutional networks: bundles, loading, receptive field, patches.

`card` describes a bundle, `architectures` builds a network, `receptive_field` measures how far it
sees, `loaded` keeps it in a process and `patches` runs it over a window. Nothing here knows of
tiles; torch is imported when a network is run.
"""
