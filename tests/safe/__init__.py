"""What comes from elsewhere does no harm: networks, vector files, texts, YAML, and other users of
the same machine.
"""
