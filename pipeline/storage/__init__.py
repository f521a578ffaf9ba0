"""Bytes, wherever they lie: locations, files written whole, checksummed records, locks."""
