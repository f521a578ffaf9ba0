"""Training of networks from pairs of images and truth: what is to be trained (`recipe`), crops of
the pairs (`samples`) and how they are varied (`augmentation`), what is to become small (`losses`),
how good the network is so far (`appraisal`, `pictures`), and the loop.
"""
