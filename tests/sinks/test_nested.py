"""Labels within the OME-Zarr image that they are of: ome-zarr-py writes the image and reads the
labels, and all else stays as it was.
"""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
import zarr
from ome_zarr.format import FormatV04, FormatV05
from ome_zarr.io import parse_url
from ome_zarr.reader import Label, Reader
from scipy import ndimage

import pipeline
from pipeline.errors import JobError, ResumeError, SourceError
from pipeline.execution.dry_run import foresee
from pipeline.jobs.job import Job
from pipeline.sinks.labels_group import Nest
from pipeline.sources.zarrs import ZarrImage
from pipeline.storage.ome_image import Home, Space
from pipeline.workflow import finished
from tests.faults.test_death import Camera

with warnings.catch_warnings():
    warnings.simplefilter(
        "ignore", DeprecationWarning
    )  # of its own class, which it uses as a default
    from ome_zarr.writer import write_image

FORMATS = {"0.4": FormatV04, "0.5": FormatV05}
VERSIONS = pytest.mark.parametrize("version", FORMATS)


@pytest.fixture(scope="module")
def camera():
    return Camera()


def blobs(shape):
    noise = ndimage.gaussian_filter(np.random.default_rng(1).random(shape), 2)
    return (noise > noise.mean()).astype(np.uint8)


def microscope(path, version, image, axes, moves=None, **more):
    """An image as ome-zarr-py writes it, with its pyramid."""
    how = {"zarr_format": 2 if version == "0.4" else 3}
    group = zarr.open_group(path, mode="w", **how)
    units = [
        {"name": letter, "type": {"c": "channel", "t": "time"}.get(letter, "space")}
        for letter in axes
    ]
    units = [axis | ({"unit": "micrometer"} if axis["type"] == "space" else {}) for axis in units]
    write_image(
        image,
        group,
        axes=units,
        fmt=FORMATS[version](),
        storage_options={"chunks": (1,) * (image.ndim - 2) + (64, 64)},
        **more,
    )
    if moves is not None:
        known = dict(group.attrs)
        for level, dataset in enumerate((known.get("ome") or known)["multiscales"][0]["datasets"]):
            dataset["coordinateTransformations"] = moves(level)
        group.attrs.update(known)
    return path


def files(folder):
    """Every file, by its path, as bytes."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in Path(folder).rglob("*")
        if path.is_file()
    }


def segmented(image, out, name="cells", **more):
    output = {"into_source": name, **more.pop("output", {})}
    job = Job(
        source={"path": str(image), **more.pop("source", {})},
        tiles={"size": 50},
        segmenters={"a": {"kind": "threshold", "value": 0.5}},
        output={"path": str(out), **output},
    )
    return pipeline.run(job, pipeline.local(), **more), job


def listed(image, version):
    if version == "0.4":
        return json.loads((image / "labels" / ".zattrs").read_text())["labels"]
    return json.loads((image / "labels" / "zarr.json").read_text())["attributes"]["ome"]["labels"]


def metadata(group):
    attributes = dict(zarr.open_group(group, mode="r").attrs)
    return attributes.get("ome") or attributes


CASES = {
    "channels": ((2, 150, 170), "cyx"),
    "a volume": ((1, 1, 5, 90, 80), "tczyx"),
    "a plane": ((1, 130, 90), "zyx"),
}


@VERSIONS
@pytest.mark.parametrize("case", CASES)
def test_ome_zarr_py_finds_the_labels_in_the_image(tmp_path, version, case):
    """ome-zarr-py shows the labels with the image, level for level, where the image's pixels lie;
    and nothing else in the image changed.
    """
    shape, axes = CASES[case]
    image = blobs(shape)
    scale = [1.0 if letter in "tc" else 0.25 * (1 + k) for k, letter in enumerate(axes)]

    def moves(level):
        factor = [2**level if letter in "yx" else 1 for letter in axes]
        move = [0.0 if letter in "tc" else 10.0 + k for k, letter in enumerate(axes)]
        return [
            {"type": "scale", "scale": [a * b for a, b in zip(scale, factor, strict=True)]},
            {"type": "translation", "translation": move},
        ]

    path = microscope(tmp_path / "image.zarr", version, image, axes, moves)
    before = files(path)
    result, job = segmented(path, tmp_path / "out", source={"channels": [1]} if "c" in axes else {})
    after = files(path)
    assert {name: data for name, data in after.items() if not name.startswith("labels/")} == before
    beside = {
        name
        for name in after
        if name.startswith("labels/") and not name.startswith("labels/cells/")
    }
    assert beside == (
        {"labels/.zattrs", "labels/.zgroup"} if version == "0.4" else {"labels/zarr.json"}
    )

    nodes = list(Reader(parse_url(path))())
    [found] = [node for node in nodes if any(isinstance(spec, Label) for spec in node.specs)]
    labels = result.labels.values
    levels = len(metadata(path)["multiscales"][0]["datasets"])
    assert len(found.data) == levels
    for level, data in enumerate(found.data):
        assert np.array_equal(np.asarray(data), labels[..., :: 2**level, :: 2**level])
    kept = [axes.index(letter) for letter in "zyx"[-labels.ndim :]]
    told = metadata(path / "labels" / "cells")
    for level, dataset in enumerate(told["multiscales"][0]["datasets"]):
        expected = [next(iter(values)) for values in ([m[m["type"]]] for m in moves(level))]
        got = [move[move["type"]] for move in dataset["coordinateTransformations"]]
        assert got == [[each[k] for k in kept] for each in expected]
    assert told["multiscales"][0]["axes"] == [
        metadata(path)["multiscales"][0]["axes"][k] for k in kept
    ]
    assert told["image-label"]["source"] == {"image": "../../"}
    nested = str(path / "labels" / "cells")
    assert result.files[nested] == nested
    assert any(f"{nested} the same in the image" in line for line in result.lines())
    assert finished(job) is not None


@VERSIONS
def test_the_metadata_are_valid(tmp_path, version):
    """ome-zarr-models finds nothing wrong with the group of labels and with those in it."""
    import ome_zarr_models.v04
    import ome_zarr_models.v05
    from ome_zarr_models.v04.labels import Labels as Old
    from ome_zarr_models.v05.labels import Labels as New

    path = microscope(tmp_path / "image.zarr", version, blobs((150, 170)), "yx")
    segmented(path, tmp_path / "out")
    kinds = {
        "0.4": (Old, ome_zarr_models.v04.ImageLabel),
        "0.5": (New, ome_zarr_models.v05.ImageLabel),
    }[version]
    for kind, place in zip(kinds, ("labels", "labels/cells"), strict=True):
        kind.from_zarr(zarr.open_group(path / place, mode="r"))


@VERSIONS
def test_other_labels_stay(tmp_path, version):
    """Labels that are there already stay byte for byte, and in the list; so does whatever else the
    list's file says.
    """
    path = microscope(tmp_path / "image.zarr", version, blobs((150, 170)), "yx")
    segmented(path, tmp_path / "one", "cells")
    file = path / "labels" / (".zattrs" if version == "0.4" else "zarr.json")
    told = json.loads(file.read_text())
    (told if version == "0.4" else told["attributes"])["note"] = "kept"
    file.write_text(json.dumps(told))
    before = files(path)
    segmented(path, tmp_path / "two", "nuclei", output={"shard": "auto"})
    after = files(path)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {str(file.relative_to(path))}
    assert listed(path, version) == ["cells", "nuclei"]
    now = json.loads(file.read_text())
    assert (now if version == "0.4" else now["attributes"])["note"] == "kept"


@VERSIONS
def test_labels_of_that_name_are_refused(tmp_path, version):
    """Labels of that name which another run made are refused before any work, and replaced only
    where that is asked for.
    """
    path = microscope(tmp_path / "image.zarr", version, blobs((150, 170)), "yx")
    segmented(path, tmp_path / "one")
    before = files(path)
    other = {
        "tiles": {"size": 60},
        "segmenters": {"a": {"kind": "threshold", "value": 0.5, "dark": True}},
        "source": str(path),
    }
    output = {"path": str(tmp_path / "two"), "into_source": "cells"}
    with pytest.raises(
        JobError,
        match=r"output.into_source: 'cells'; .* has labels of that name; .*replace_in_source: true",
    ):
        pipeline.run(Job(**other, output=output), pipeline.local())
    refused = foresee(Job(**other, output=output), pipeline.local()).refused
    assert "has labels of that name" in str(refused)
    assert files(path) == before
    assert not (tmp_path / "two").exists()
    result = pipeline.run(
        Job(**other, output={**output, "replace_in_source": True}), pipeline.local()
    )
    assert np.array_equal(
        zarr.open_array(path / "labels" / "cells" / "0", mode="r")[:], result.labels.values
    )
    assert listed(path, version) == ["cells"]
    assert sorted(each.name for each in (path / "labels").iterdir() if each.is_dir()) == ["cells"]


def test_a_runs_own_labels_may_be_made_again(tmp_path):
    """The same job may be done anew, and its labels take the place of those that it made before."""
    path = microscope(tmp_path / "image.zarr", "0.5", blobs((150, 170)), "yx")
    segmented(path, tmp_path / "one")
    before = files(path)
    segmented(path, tmp_path / "one", fresh=True)
    assert files(path) == before


@VERSIONS
@pytest.mark.parametrize(
    "events",
    [
        pytest.param(("os.rename", "os.mkdir", "shutil.move"), id="commits"),
        pytest.param(
            ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "open"),
            id="every event",
            marks=pytest.mark.heavy,
        ),
    ],
)
def test_killed_at_every_step(tmp_path, camera, version, events):
    """Wherever the driver is killed, the list names whole labels or none, and a resume ends with
    the bytes of an undisturbed run.
    """
    home = tmp_path / "home"
    home.mkdir()
    path = microscope(home / "image.zarr", version, blobs((70, 90)), "yx")
    untouched = files(path)
    with camera.on(home, tmp_path / "album", events):
        result, _ = segmented(path, home / "out")
    whole, labels = files(path), result.labels.values
    taken = [
        k
        for k in range(1, camera.pictures + 1)
        if files(tmp_path / "album" / str(k) / "image.zarr") != untouched
    ]
    assert len(taken) >= 4
    for number in [1, *(k for k in range(min(taken) - 2, camera.pictures + 1))]:
        left = tmp_path / "album" / str(number)
        image = left / "image.zarr"
        named = (
            listed(image, version)
            if any((image / "labels" / name).exists() for name in (".zattrs", "zarr.json"))
            else []
        )
        if named:
            assert np.array_equal(
                zarr.open_array(image / "labels" / "cells" / "0", mode="r")[:], labels
            )
        segmented(image, left / "out")
        assert files(image) == whole, f"killed before event {number}"


def test_the_image_is_still_watched(tmp_path):
    """Labels in the image do not make it another image, and pixels that change do."""
    path = microscope(tmp_path / "image.zarr", "0.5", blobs((150, 170)), "yx")
    _, job = segmented(path, tmp_path / "out", output={"keep_scratch": True})
    assert finished(job) is not None
    array = zarr.open_array(
        path / metadata(path)["multiscales"][0]["datasets"][0]["path"], mode="r+"
    )
    array[:] = 0
    with pytest.raises(ResumeError, match=r"another job \(source.fingerprint"):
        pipeline.run(job, pipeline.local())


def test_classes_go_there_where_there_is_nothing_else(tmp_path):
    """Of a run for classes only, these go into the image, with their colours."""
    image = blobs((150, 170))
    path = microscope(tmp_path / "image.zarr", "0.5", image, "yx")
    segmented(
        path,
        tmp_path / "out",
        output={"results": ["semantic"], "legend": {1: {"name": "cell", "colour": "#0040ff"}}},
    )
    assert np.array_equal(zarr.open_array(path / "labels" / "cells" / "0", mode="r")[:], image)
    colours = {
        each["label-value"]: each["rgba"]
        for each in metadata(path / "labels" / "cells")["image-label"]["colors"]
    }
    assert colours[1] == [0, 64, 255, 255]


def plain(folder):
    zarr.create_array(folder / "a.zarr", data=np.ones((40, 40), np.uint8))
    return {"path": str(folder / "a.zarr")}


def times(folder):
    return {"path": str(microscope(folder / "t.zarr", "0.5", blobs((3, 60, 60)), "tyx")), "time": 1}


def raster(folder):
    place = rasterio.Affine(1, 0, 5, 0, -1, 5)
    with rasterio.open(
        folder / "a.tif",
        "w",
        driver="GTiff",
        width=9,
        height=9,
        count=1,
        dtype="uint8",
        transform=place,
    ) as file:
        file.write(np.ones((9, 9), np.uint8), 1)
    return {"path": str(folder / "a.tif")}


def ome(folder):
    return {"path": str(microscope(folder / "image.zarr", "0.5", blobs((60, 60)), "yx"))}


def own_output(folder):
    return ome(folder) | {"out": folder / "image.zarr" / "out"}


def unreadable(folder):
    found = ome(folder)
    (folder / "image.zarr" / "labels").mkdir()
    (folder / "image.zarr" / "labels" / "zarr.json").write_text("torn")
    return found


@pytest.mark.parametrize(
    ("source", "name", "error", "reason"),
    [
        pytest.param(plain, "cells", JobError, "has no room for labels", id="an array"),
        pytest.param(
            times,
            "cells",
            JobError,
            "along the axis t is read of several",
            id="one of several times",
        ),
        pytest.param(raster, "cells", JobError, "OME-Zarr images only", id="a GeoTIFF"),
        pytest.param(ome, "../cells", JobError, "allowed: a name of letters", id="a way out"),
        pytest.param(ome, ".cells", JobError, "allowed: a name of letters", id="a hidden name"),
        pytest.param(
            own_output, "cells", JobError, "lies in the image", id="an output in the image"
        ),
        pytest.param(unreadable, "cells", SourceError, "cannot be read", id="a torn list"),
    ],
)
def test_where_labels_cannot_go_is_refused(tmp_path, source, name, error, reason):
    """Before any work, a job is refused whose image has no place for labels; the result itself may
    not lie in the image, as ever.
    """
    given = source(tmp_path)
    out, before = given.pop("out", tmp_path / "out"), files(tmp_path)
    with pytest.raises(error, match=reason):
        segmented(given.pop("path"), out, name, source=given)
    assert files(tmp_path) == before


def test_an_image_on_a_server_is_refused():
    """Labels go into folders only; of an image on a server that is said before it is opened."""
    with pytest.raises(JobError, match="is on a server"):
        ZarrImage("s3://bucket/image.zarr").home()


def nest(path, mark):
    return Nest(Home(str(path), "0.5", Space((), (), ()), 1), "cells", mark)


def test_the_second_of_two_runs_is_refused(tmp_path):
    """Of two runs that want one name at once, the one that is later finds the other's labels there,
    and leaves them.
    """
    for mark in ("one", "two"):
        (tmp_path / mark).mkdir()
        (tmp_path / mark / "zarr.json").write_text(json.dumps({"attributes": {"tilewise": mark}}))
        nest(tmp_path, mark).refuse()
    nest(tmp_path, "one").settle(tmp_path / "one")
    before = files(tmp_path / "labels")
    with pytest.raises(JobError, match="has labels of that name"):
        nest(tmp_path, "two").settle(tmp_path / "two")
    assert files(tmp_path / "labels") == before


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs a second file system in /dev/shm")
def test_labels_come_from_another_disk(tmp_path):
    """Labels that are staged on another disk are copied beside their place first, and are then
    there in one move.
    """
    staged = Path("/dev/shm", f"tilewise-{tmp_path.name}")
    staged.mkdir()
    (staged / "zarr.json").write_text("{}")
    try:
        nest(tmp_path, "one").settle(staged)
        assert not staged.exists()
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    assert (tmp_path / "labels" / "cells" / "zarr.json").read_text() == "{}"
    assert listed(tmp_path, "0.5") == ["cells"]
