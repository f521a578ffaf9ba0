"""The version, which the build and every record of a run read."""

__version__ = "0.1.0"
