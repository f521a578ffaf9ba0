"""From what a network predicts to objects or classes."""
