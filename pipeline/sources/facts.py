"""What a reader tells people of an image besides its frame, for `tilewise info`.

A reader has a property ``facts``: a mapping from some of `FACTS` to plain values (text, numbers,
lists and mappings of them), in any order. What a file does not have is left out. What it has and
the reader cannot make use of is a sentence in ``not_understood``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

FACTS = {
    "format": "text: what kind of file it is, as its own field calls it: GTiff, OME-TIFF, SVS, "
    "OME-Zarr 0.5, NIfTI-1",
    "series": "number or text: which image of the file, or of the group, is read",
    "images": "list: the images that there are, by name or number, with their shapes",
    "level": "number: which level is read",
    "levels": "list of shapes (plane, row, column): what there is at each level, the finest first",
    "pages": "number of pages of a file that counts them",
    "axes": "text: the letters of the stored axes, tczyx",
    "stored": "shape along these axes",
    "times": "number of times",
    "time": "number: which of them is read",
    "planes": "number of planes",
    "plane": "number: which of them is read, where not all are",
    "channels": "list: the names of all that there are, alpha among them, in their order; those "
    "read are the frame's bands",
    "optical_paths": "list: the ways of light of a slide, by which option it is chosen",
    "colours": "list of text by channel: red, green, blue, alpha, grey, palette, undefined; or "
    "of #rrggbb",
    "alpha": "number of the channel that is alpha, from 1, and says what was measured",
    "mask": "text: what else says so: a mask in the file, one beside it, alpha",
    "nodata": "list by band read: the value that means not measured; nothing where there is none",
    "scale": "list by band read: what its numbers are multiplied by, where asked for by scaled",
    "offset": "list by band read: what is added after that",
    "units": "list by band read: of its values",
    "places": "mapping: how many ground control points or rational polynomials there are, in "
    "which CRS, whether an affine fits them",
    "sizes": "mapping by axis: the extent of a pixel and its unit, as the file says them",
    "orientation": "text: to where columns, rows and planes of a body's image go: R, L, A, P, S "
    "or I",
    "compression": "text: how chunks are compressed; their shape is the frame's",
    "decoded": "text: that it is decoded whole, and what it then takes of memory",
    "files": "list: other files that belong to it",
    "missing_chunks": "text: what was never written",
    "not_understood": "list of sentences: what the file says that no use is made of, and options "
    "that make no difference",
}
"""What a reader may tell, and as what; people are shown it in this order."""


@runtime_checkable
class Telling(Protocol):
    """A reader that tells more of its image."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """By name in `FACTS`, what is known."""
        ...


def told(source: Any) -> dict[str, Any]:
    """What a source tells of itself, in the order of `FACTS`, without what there is nothing of."""
    return ordered(
        {**getattr(source, "remarks", {}), **(source.facts if isinstance(source, Telling) else {})}
    )


def ordered(known: Mapping[str, Any]) -> dict[str, Any]:
    """Facts in the order of `FACTS`, without what there is nothing of."""
    order = {name: number for number, name in enumerate(FACTS)}
    names = sorted(known, key=lambda name: order.get(name, len(order)))
    return {name: known[name] for name in names if known[name] not in (None, [], {}, "")}
