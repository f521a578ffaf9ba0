"""What people are told of an image besides its frame, by `tilewise info` and in a plan.

A reader has a property ``facts`` (`pipeline.sources.contract.Described`): a mapping from some of
`FACTS` to plain values (text, numbers, lists and mappings of them), in any order. Facts that a file
lacks are left out or empty. What a file says and its reader cannot use is a sentence in
``not_understood``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec

from pipeline.errors import TilewiseError
from pipeline.sources.contract import Described

P = ParamSpec("P")
DOUBTS = "not_understood"
EMPTY: tuple[object, ...] = (None, [], {}, "")
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


def told(source: object) -> dict[str, Any]:
    """What a source tells of itself, in the order of `FACTS`, without empty values."""
    known = source.facts if isinstance(source, Described) else {}
    order = {name: number for number, name in enumerate(FACTS)}
    names = sorted(known, key=lambda name: order.get(name, len(order)))
    return {name: known[name] for name in names if known[name] not in EMPTY}


def combined(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts from several places: of each name the first that is not None, and all sentences on what
    was not understood.

    >>> combined({"level": 0, "axes": None, "not_understood": ["a"]}, {"axes": "yx", "level": 1})
    {'level': 0, 'axes': 'yx', 'not_understood': ['a']}
    """
    found: dict[str, Any] = {}
    for part in parts:
        found |= {name: value for name, value in part.items() if found.get(name) is None}
    found[DOUBTS] = [each for part in parts for each in part.get(DOUBTS) or ()]
    return found


def if_undamaged(read: Callable[P, dict[str, Any]]) -> Callable[P, dict[str, Any]]:
    """Let a function that looks for facts find none where a file is damaged: what was asked for is
    the image, and it can be read without them.
    """

    @functools.wraps(read)
    def found(*args: P.args, **options: P.kwargs) -> dict[str, Any]:
        try:
            return read(*args, **options)
        except (TilewiseError, OSError, KeyError, ValueError):
            return {}

    return found
