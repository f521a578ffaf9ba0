"""What a Zarr array or an OME-Zarr group says of itself besides its frame, by the names in
`pipeline.sources.facts`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.sources.facts import if_undamaged
from pipeline.sources.zarr_groups import dims_of, known
from pipeline.storage.locations import zarr_store


@if_undamaged
def zarr_facts(
    path: str, ndim: int, *, level: int | str, time: int | None, plane: int | None
) -> dict[str, Any]:
    """The facts of what lies at a path.

    Parameters
    ----------
    path
        The array, or the group of an OME-Zarr image.
    ndim
        The number of axes of space that are read: 2 or 3.
    level, time, plane
        Which of them is read; None: not chosen.
    """
    import zarr

    node: Any = zarr.open(zarr_store(path), mode="r", use_consolidated=False)
    if isinstance(node, zarr.Array):
        return {"format": f"Zarr {node.metadata.zarr_format}", **_array_facts(node)}
    ome = known(dict(node.attrs))
    scales: Sequence[Mapping[str, Any]] = ome.get("multiscales") or [{}]
    first = scales[0]
    arrays = [node[dataset["path"]] for dataset in first.get("datasets", ())]
    channels = (ome.get("omero") or {}).get("channels", ())
    names = [axis if isinstance(axis, str) else axis["name"] for axis in first.get("axes", ())]
    length = dict(zip(names, arrays[0].shape, strict=False)) if arrays else {}
    images = [str(each.get("name") or k) for k, each in enumerate(scales)]
    return {
        "format": f"OME-Zarr {ome.get('version') or first.get('version') or ''}".strip(),
        "images": images if len(images) > 1 else None,
        "level": level,
        "levels": [list(array.shape[-ndim:]) for array in arrays],
        "times": length.get("t"),
        "time": time,
        "planes": length.get("z"),
        "plane": plane,
        "channels": [str(each.get("label", k + 1)) for k, each in enumerate(channels)],
        **(_array_facts(arrays[0]) if arrays else {}),
        "axes": "".join(names) if all(len(name) == 1 for name in names) else None,
    }


def _array_facts(array: Any) -> dict[str, Any]:
    """How an array is stored."""
    names = dims_of(array)
    codecs = [type(each).__name__.removesuffix("Codec") for each in array.compressors]
    shards = f", in shards of {' x '.join(map(str, array.shards))}" if array.shards else ""
    return {
        "axes": "".join(names) if names and all(len(name) == 1 for name in names) else None,
        "stored": list(array.shape),
        "compression": f"{', '.join(codecs) or 'none'}{shards}",
    }
