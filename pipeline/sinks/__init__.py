"""Writers of results.

A sink writes where its caller says; the caller moves the complete result to its place.
"""
