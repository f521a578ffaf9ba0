"""Bytes in folders and object stores: locations, atomic files, checksummed records, locks."""
