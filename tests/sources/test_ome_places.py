"""OME-Zarr images in groups, and where they lie: ome-zarr-py reads image and labels, and they lie
upon each other.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import zarr

import pipeline
from pipeline.errors import JobError
from pipeline.sources import facts, open_source
from tests.sources.files import whole

UM = {"type": "space", "unit": "micrometer"}
SPOTS = np.zeros((64, 96), np.uint8)
SPOTS[8:20, 16:40], SPOTS[30:60, 50:90] = 9, 9


def image(folder, version="0.4", *, axes="yx", levels=2, whole_image=(), own=(), pixels=SPOTS):
    """An OME-Zarr image of spots, with transformations of each level, and of all of them."""
    group = zarr.open_group(folder, mode="a", zarr_format=2 if version == "0.4" else 3)
    datasets = []
    for level in range(levels):
        data = pixels[..., :: 2**level, :: 2**level]
        group.create_array(
            str(level), shape=data.shape, chunks=(*data.shape[:-2], 32, 32), dtype=data.dtype
        )[:] = data
        scale = [*(2.0 for _ in axes[:-2]), 0.5 * 2**level, 0.25 * 2**level]
        datasets.append(
            {
                "path": str(level),
                "coordinateTransformations": [{"type": "scale", "scale": scale}, *own],
            }
        )
    about = [
        {"version": version, "axes": [{"name": name, **UM} for name in axes], "datasets": datasets}
    ]
    if whole_image:
        about[0]["coordinateTransformations"] = list(whole_image)
    group.attrs.update(
        {"multiscales": about}
        if version == "0.4"
        else {"ome": {"version": "0.5", "multiscales": about}}
    )
    return folder


def centres(path):
    """By object, the centre of its pixels in micrometres, as ome-zarr-py reads pixels and
    transformations of the finest level.
    """
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    node = next(iter(Reader(parse_url(path))()))
    data, moves = np.asarray(node.data[0]), node.metadata["coordinateTransformations"][0]
    found = {}
    for value in sorted(set(np.unique(data).tolist()) - {0}):
        place = np.argwhere(data == value).mean(axis=0)
        for move in moves:
            place = (
                place * move["scale"] if move["type"] == "scale" else place + move["translation"]
            )
        found[value] = place
    return found


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("level", [0, 1])
def test_labels_lie_upon_the_image(version, level, tmp_path):
    """Labels of any level of an image that is moved lie where its objects do, as ome-zarr-py reads
    both.
    """
    path = image(
        tmp_path / "a.zarr", version, own=[{"type": "translation", "translation": [100.0, -30.0]}]
    )
    result = pipeline.segment(
        {"path": str(path), "level": level},
        pipeline.Threshold(value=5),
        tmp_path / "out",
        engine=pipeline.local(),
        ome_zarr=version,
    )
    ours = centres(tmp_path / "out" / "labels.zarr")
    shown = np.asarray(result.labels)
    for value, place in ours.items():
        row, column = np.argwhere(shown == value).mean(axis=0) * 2**level
        np.testing.assert_allclose(place, (0.5 * row + 100, 0.25 * column - 30))
        told = result.labels.compute().pipe(
            lambda found, value=value: found.where(found == value, drop=True)
        )
        np.testing.assert_allclose((told.y.mean(), told.x.mean()), place)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("axes", ["yx", "zyx"])
def test_transformations_of_all_levels_come_on_top(version, axes, tmp_path):
    """A level is scaled and moved by its own transformations, and then by those of the image;
    labels of it say where that is.
    """
    lead = [0.0] * (len(axes) - 2)
    own = [{"type": "translation", "translation": [*lead, 100.0, -30.0]}]
    both = [
        {"type": "scale", "scale": [*(1.0 for _ in lead), 10.0, 2.0]},
        {"type": "translation", "translation": [*lead, 7.0, 5.0]},
    ]
    pixels = SPOTS if axes == "yx" else np.stack([SPOTS] * 3)
    path = image(
        tmp_path / "a.zarr",
        version,
        axes=axes,
        own=[{"type": "identity"}, *own],
        whole_image=both,
        pixels=pixels,
    )
    frame = open_source(path).frame
    assert (frame.pixel_size[-2:], frame.unit, frame.translation[-2:]) == (
        (5.0, 0.5),
        "micrometer",
        (1007.0, -55.0),
    )
    pipeline.segment(
        str(path),
        pipeline.Threshold(value=5),
        tmp_path / "out",
        engine=pipeline.local(),
        ome_zarr=version,
    )
    labels = open_source(tmp_path / "out" / "labels.zarr").frame
    assert (labels.pixel_size, labels.translation) == (frame.pixel_size, frame.translation)


def nested(folder, version, paths, about, parents=()):
    """Images in a group that says something of them."""
    group = zarr.open_group(folder, mode="w", zarr_format=2 if version == "0.4" else 3)
    group.attrs.update(about if version == "0.4" else {"ome": {"version": "0.5", **about}})
    for path, more in parents:
        group.create_group(path).attrs.update(
            more if version == "0.4" else {"ome": {"version": "0.5", **more}}
        )
    for path in paths:
        image(folder / path, version)
    return folder


WELL = {"well": {"images": [{"path": "0"}, {"path": "1"}]}}
PLATE = {"plate": {"wells": [{"path": "A/1"}, {"path": "B/2"}]}}
GROUPS = {
    "bioformats2raw": (["0", "1", "2"], {"bioformats2raw.layout": 3}, [], "0, 1, 2"),
    "bioformats2raw with names": (
        ["x", "y"],
        {"bioformats2raw.layout": 3},
        [("OME", {"series": ["y", "x"]})],
        "y, x",
    ),
    "a well": (["0", "1"], WELL, [], "0, 1"),
    "a plate": (
        ["A/1/0", "A/1/1", "B/2/0", "B/2/1"],
        PLATE,
        [("A/1", WELL), ("B/2", WELL)],
        "A/1/0, A/1/1, B/2/0, B/2/1",
    ),
    "labels": (["nuclei", "cells"], {"labels": ["nuclei", "cells"]}, [], "nuclei, cells"),
    "a plain group": (["a", "deep/b"], {}, [("deep", {})], "a, deep/b"),
}


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("kind", GROUPS)
def test_groups_name_their_images(kind, version, tmp_path):
    """A group of several images names them, and each is read by its path."""
    paths, about, parents, listed = GROUPS[kind]
    folder = nested(tmp_path / "a.zarr", version, paths, about, parents)
    first = listed.split(",")[0]
    with pytest.raises(
        JobError,
        match=rf"a\.zarr is a group of several images; choose one, path: .*a\.zarr/{first}; it "
        rf"has {listed}$",
    ):
        open_source(folder)
    for path in paths:
        np.testing.assert_array_equal(whole(open_source(folder / path))[0], SPOTS)


@pytest.mark.parametrize(
    ("path", "about", "parents"),
    [
        ("0", {"bioformats2raw.layout": 3}, []),
        (
            "A/1/0",
            {"plate": {"wells": [{"path": "A/1"}]}},
            [("A/1", {"well": {"images": [{"path": "0"}]}})],
        ),
        ("deep/image", {}, [("deep", {})]),
    ],
)
def test_the_one_image_of_a_group_is_taken(path, about, parents, tmp_path):
    """Where a group has one image, it is that, with its sizes; `info` says which; labels go into it
    where that is asked for.
    """
    folder = nested(tmp_path / "a.zarr", "0.4", [path], about, parents)
    (folder / "notes.txt").write_text("what Zarr knows nothing of")
    source = open_source(folder, level=1)
    np.testing.assert_array_equal(whole(source)[0], SPOTS[::2, ::2])
    assert source.frame.pixel_size == (1.0, 0.5)
    told = facts.told(source)
    assert (told["series"], told["level"], told["levels"]) == (path, 1, [[64, 96], [32, 48]])
    pipeline.segment(
        str(folder),
        pipeline.Threshold(value=5),
        tmp_path / "out",
        engine=pipeline.local(),
        into_source="spots",
    )
    assert open_source(folder / path / "labels" / "spots").frame.pixel_size == (0.5, 0.25)


def test_many_images_are_not_all_named(tmp_path):
    """Of a large group some images are named, and that there are more."""
    folder = nested(
        tmp_path / "a.zarr",
        "0.5",
        [],
        {"well": {"images": [{"path": str(k)} for k in range(1000)]}},
    )
    with pytest.raises(JobError, match=r"it has 0, 1, .*, 11, and more$"):
        open_source(folder)


def test_chunks_that_cannot_be_read_are_named(tmp_path):
    """The file of a chunk, or of the shard that it lies in, is named, whichever else is read with
    it, in both formats.
    """
    data = np.random.default_rng(0).integers(0, 60000, (96, 128)).astype(np.uint16)
    layouts = {
        "a": {"zarr_format": 2},
        "b": {"zarr_format": 3},
        "c": {"zarr_format": 3, "shards": (32, 64)},
    }
    for (name, how), place in itertools.product(layouts.items(), ([0, 0], [1, 1], [2, 1])):
        path = tmp_path / f"{name}{place[0]}.zarr"
        array = zarr.create_array(path, data=data, chunks=(16, 32), **how)
        key = array.metadata.encode_chunk_key(tuple(place))
        source = open_source(path)
        file = path / key
        changed = bytearray(file.read_bytes())
        changed[: len(changed) // 2] = bytes(len(changed) // 2)
        file.write_bytes(changed)
        with pytest.raises(
            OSError, match=rf"{name}{place[0]}\.zarr: its chunk {key} cannot be read: "
        ):
            whole(source)
