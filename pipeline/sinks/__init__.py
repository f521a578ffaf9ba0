"""What can be written. A sink writes where its caller says, and the caller moves the result to its
place when it is whole.
"""
