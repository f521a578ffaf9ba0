"""What an image is: its frame, its grid of tiles, its bands, its classes and the size of its
pixels.
"""
