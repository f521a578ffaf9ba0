"""Convolutional networks: what a bundle says of one (`card`), how one is built (`architectures`),
how far it sees (`probe`), and how one that is loaded once per process is run over a window
(`resident`). Nothing here knows of tiles; torch is imported when a network is run.
"""
