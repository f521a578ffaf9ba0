"""Labels as OME-TIFF, held against tifffile, GDAL and Pillow."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import rasterio
import tifffile

import pipeline
from pipeline.errors import JobError
from pipeline.image.frame import Frame
from pipeline.image.legend import entry
from pipeline.sinks import microscopy
from pipeline.sinks.cog import Palette
from pipeline.sinks.microscopy import write_ome_tiff
from pipeline.sinks.pyramid import Pyramid

# rasterio warns whenever a dataset that lies nowhere is opened, here by the tests.
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
SIZES = {"pixel_size": (0.5, 0.25), "unit": "micrometer"}


def pyramid_of(folder, frame, labels, **more):
    """A pyramid with all its levels."""
    made = Pyramid(
        str(Path(folder, "labels.zarr")),
        frame,
        (1, 512, 512)[-frame.ndim :],
        str(labels.dtype),
        **more,
    )
    made.create()
    for box in made.blocks(0):
        made.write(box, labels[box.slices])
    for level in range(1, made.levels):
        for box in made.blocks(level):
            made.reduce(level, box)
    return made


def noise(shape, dtype="uint32"):
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def levels(path):
    """All levels of the file's one image, by tifffile."""
    with tifffile.TiffFile(path) as file:
        [series] = file.series
        return series.axes, [level.asarray() for level in series.levels]


@pytest.mark.parametrize("shape", [(700, 1300), (1, 1), (513, 5000), (3, 600, 700)], ids=str)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
def test_tifffile_reads_every_level(tmp_path, shape, dtype):
    """Level k of the file's one image has every 2^k-th row and column of the labels, and its tiles
    are of 512 pixels.
    """
    labels = noise(shape, dtype)
    write_ome_tiff(str(tmp_path / "p.ome.tif"), pyramid_of(tmp_path, Frame(shape), labels))
    axes, found = levels(tmp_path / "p.ome.tif")
    assert axes == "ZYX"[-len(shape) :]
    for level, values in enumerate(found):
        assert values.dtype == dtype
        assert np.array_equal(values, labels[..., :: 2**level, :: 2**level])
    assert max(found[-1].shape[-2:]) <= 512
    with tifffile.TiffFile(tmp_path / "p.ome.tif") as file:
        assert file.is_ome
        assert {(page.tilelength, page.tilewidth) for page in file.pages} == {(512, 512)}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels.zarr", "p.ome.tif"]


def test_gdal_reads_labels_and_overviews(tmp_path):
    """GDAL finds the same labels, the levels as overviews, tiles, and no place in the world."""
    labels = noise((1100, 1300))
    write_ome_tiff(
        str(tmp_path / "p.ome.tif"), pyramid_of(tmp_path, Frame(labels.shape, **SIZES), labels)
    )
    with rasterio.open(tmp_path / "p.ome.tif") as file:
        assert np.array_equal(file.read(1), labels)
        assert (file.crs, file.transform.is_identity, file.block_shapes) == (
            None,
            True,
            [(512, 512)],
        )
        assert file.tags()["TIFFTAG_RESOLUTIONUNIT"].startswith("3")
        assert (
            float(file.tags()["TIFFTAG_XRESOLUTION"]),
            float(file.tags()["TIFFTAG_YRESOLUTION"]),
        ) == (40_000, 20_000)


@pytest.mark.parametrize(
    ("unit", "size", "microns"),
    [
        ("micrometer", (2.0, 0.5, 0.25), (2.0, 0.5, 0.25)),
        ("millimeter", (2.0, 0.5, 0.25), (2000, 500, 250)),
        ("pixel", (1, 1, 1), None),
    ],
)
def test_pixels_have_their_size(tmp_path, unit, size, microns):
    """Our reader of OME-TIFFs finds the pixels' size in microns in the file, and none where the
    image has none.
    """
    from pipeline.sources import open_source

    labels = noise((2, 40, 50))
    write_ome_tiff(
        str(tmp_path / "p.ome.tif"),
        pyramid_of(tmp_path, Frame(labels.shape, pixel_size=size, unit=unit), labels),
    )
    frame = open_source(tmp_path / "p.ome.tif").frame
    assert frame.shape == (2, 40, 50)
    assert frame.pixel_size == pytest.approx(microns or (1, 1, 1))
    assert frame.unit == ("micrometer" if microns else "pixel")


def test_the_xml_is_what_tifffile_would_write(tmp_path):
    """The OME-XML says of the image what tifffile's own says of it."""
    labels = noise((2, 40, 50))
    frame = Frame(labels.shape, pixel_size=(2.0, 0.5, 0.25), unit="micrometer")
    write_ome_tiff(str(tmp_path / "p.ome.tif"), pyramid_of(tmp_path, frame, labels))
    metadata = {"axes": "ZYX", "Name": "labels"}
    metadata |= {
        f"PhysicalSize{letter}": size for letter, size in zip("ZYX", frame.pixel_size, strict=True)
    }
    metadata |= {f"PhysicalSize{letter}Unit": "µm" for letter in "ZYX"}
    tifffile.imwrite(
        tmp_path / "other.ome.tif", labels, ome=True, metadata=metadata, compression="zlib"
    )
    found = []
    for name in ("p.ome.tif", "other.ome.tif"):
        with tifffile.TiffFile(tmp_path / name) as file:
            root = ET.fromstring(file.ome_metadata)
        elements = {element.tag: dict(element.attrib) for element in root.iter()}
        image = next(attributes for tag, attributes in elements.items() if tag.endswith("Image"))
        pixels = next(attributes for tag, attributes in elements.items() if tag.endswith("Pixels"))
        found.append(
            (
                root.tag,
                image,
                {key: value for key, value in pixels.items() if key != "DimensionOrder"},
            )
        )
    assert found[0] == found[1]


def test_classes_have_colours(tmp_path):
    """Classes carry their colour table, which GDAL and Pillow read, and the value that means that
    nothing was measured.
    """
    from PIL import Image

    classes = np.random.default_rng(0).integers(0, 3, (600, 700), np.uint8)
    classes[:50] = 255
    legend = {
        number: entry(number, {"name": "x", "colour": colour})
        for number, colour in enumerate(("#000000", "#0040ff", "#10ff80"))
    }
    made = pyramid_of(tmp_path, Frame(classes.shape), classes, fill=255, legend=legend)
    write_ome_tiff(str(tmp_path / "p.ome.tif"), made, Palette(legend, 255))
    with rasterio.open(tmp_path / "p.ome.tif") as file:
        assert file.nodata == 255
        assert [file.colormap(1)[number][:3] for number in range(3)] == [
            (0, 0, 0),
            (0, 64, 255),
            (16, 255, 128),
        ]
        assert np.array_equal(file.read(1), classes)
    with Image.open(tmp_path / "p.ome.tif") as picture:
        shown = np.asarray(picture.convert("RGB"))
    assert np.array_equal(
        shown[100:][classes[100:] == 1], [[0, 64, 255]] * int((classes[100:] == 1).sum())
    )
    assert all(
        np.array_equal(values, classes[:: 2**k, :: 2**k])
        for k, values in enumerate(levels(tmp_path / "p.ome.tif")[1])
    )


@pytest.mark.parametrize(
    ("limit", "magic"), [(microscopy.CLASSIC, 42), (0, 43)], ids=["classic", "BigTIFF"]
)
def test_the_file_has_the_offsets_decided_on(tmp_path, monkeypatch, limit, magic):
    """TIFF's version is 42, and BigTIFF's, where the labels could be too long for 32 bits, 43; both
    hold the labels.
    """
    monkeypatch.setattr(microscopy, "CLASSIC", limit)
    labels = noise((600, 700))
    write_ome_tiff(str(tmp_path / "p.ome.tif"), pyramid_of(tmp_path, Frame(labels.shape), labels))
    assert (tmp_path / "p.ome.tif").read_bytes()[2] == magic
    assert np.array_equal(levels(tmp_path / "p.ome.tif")[1][0], labels)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((25_000, 25_000), False),
        ((30_000, 30_000), True),
        ((4, 12_000, 20_000), True),
        ((5_000_000, 1), True),
    ],
)
def test_offsets_are_wide_enough(shape, expected):
    """A file that could pass 4 GB if nothing could be compressed, with all its levels, gets 64-bit
    offsets.
    """
    made = Pyramid("nowhere", Frame(shape), (512,) * len(shape), "uint32")
    assert microscopy._is_big(made) == expected
    assert (
        expected or sum(int(np.prod(made.shape(level))) for level in range(made.levels)) * 4 < 2**32
    )


def test_the_same_labels_give_the_same_bytes(tmp_path):
    """Written twice, the file is the same."""
    labels = noise((600, 700))
    made = pyramid_of(tmp_path, Frame(labels.shape, **SIZES), labels)
    for name in ("a.ome.tif", "b.ome.tif"):
        write_ome_tiff(str(tmp_path / name), made)
    assert (tmp_path / "a.ome.tif").read_bytes() == (tmp_path / "b.ome.tif").read_bytes()


def test_no_codecs_need_be_installed(tmp_path):
    """Without imagecodecs the file holds the same labels: what packs it comes with tifffile."""
    labels = noise((600, 700))
    pyramid_of(tmp_path, Frame(labels.shape), labels)
    script = f"""
        import sys
        sys.modules["imagecodecs"] = None
        from pipeline.image.frame import Frame
        from pipeline.sinks.microscopy import write_ome_tiff
        from pipeline.sinks.pyramid import Pyramid
        write_ome_tiff({str(tmp_path / "p.ome.tif")!r}, Pyramid({str(tmp_path / "labels.zarr")!r}, Frame((600, 700)), (512, 512), "uint32"))
    """  # noqa: E501
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True)
    assert np.array_equal(levels(tmp_path / "p.ome.tif")[1][0], labels)


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files as POSIX does")
def test_a_full_disk_is_an_error(tmp_path):
    """Where no more can be written, an OutputError says so, and nothing is left behind."""
    pyramid_of(tmp_path, Frame((1024, 1024)), noise((1024, 1024)))
    script = f"""
        import resource
        from pipeline.errors import OutputError
        from pipeline.image.frame import Frame
        from pipeline.sinks.microscopy import write_ome_tiff
        from pipeline.sinks.pyramid import Pyramid
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
        made = Pyramid({str(tmp_path / "labels.zarr")!r}, Frame((1024, 1024)), (512, 512), "uint32")
        try:
            write_ome_tiff({str(tmp_path / "p.ome.tif")!r}, made)
        except OutputError as error:
            print(error)
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False
    )
    assert "is the disk full?" in ended.stdout, ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["labels.zarr"]


def slide(folder):
    """A small slide with two bright discs, of half a micron a pixel."""
    rows, columns = np.mgrid[:90, :120]
    image = ((rows - 30) ** 2 + (columns - 40) ** 2 < 200) | (
        (rows - 60) ** 2 + (columns - 90) ** 2 < 300
    )
    path = folder / "slide.ome.tif"
    metadata = {"axes": "YX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    tifffile.imwrite(path, image.astype(np.uint8) * 200, ome=True, metadata=metadata)
    return path, image


def test_from_slide_to_slide(tmp_path):
    """A slide's labels and classes lie beside the Zarr as OME-TIFFs of the same pixels and size,
    and areas are in square microns.
    """
    path, image = slide(tmp_path)
    result = pipeline.segment(
        str(path),
        pipeline.Threshold(value=100),
        tmp_path / "out",
        tile=64,
        labels=["zarr", "ome-tiff"],
        results=["instance", "semantic"],
        engine=pipeline.local(),
    )
    assert np.array_equal(levels(tmp_path / "out" / "labels.ome.tif")[1][0], result.labels.values)
    assert np.array_equal(levels(tmp_path / "out" / "classes.ome.tif")[1][0], image)
    assert result.objects["area_um2"].tolist() == (result.objects["area"] * 0.25).tolist()
    assert {"labels.ome.tif", "classes.ome.tif"} <= result.files.keys()
    from pipeline.sources import open_source

    assert open_source(tmp_path / "out" / "labels.ome.tif").frame.pixel_size == (0.5, 0.5)


def georeferenced(folder):
    path = folder / "scene.tif"
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=9,
        height=9,
        count=1,
        dtype="uint8",
        crs="EPSG:32633",
        transform=rasterio.Affine(1, 0, 5, 0, -1, 5),
    ) as file:
        file.write(np.ones((9, 9), np.uint8), 1)
    return str(path)


@pytest.mark.parametrize(
    ("image", "output", "reason"),
    [
        pytest.param(
            georeferenced, {"labels": ["ome-tiff"]}, "place in the world", id="georeferenced"
        ),
        pytest.param(
            lambda _: np.ones((9, 9), np.uint8),
            {"labels": ["ome-tiff"], "dtype": "uint64"},
            "allowed: uint32",
            id="64 bits",
        ),
        pytest.param(
            lambda _: {"path": np.ones((4, 9, 9), "uint8"), "axes": "zyx"},
            {"labels": ["cog"]},
            "cog of a volume",
            id="a volume",
        ),
    ],
)
def test_what_a_file_cannot_hold_is_refused(tmp_path, image, output, reason):
    """Before any work, a job is refused that asks for a file which cannot hold its labels or their
    place.
    """
    with pytest.raises(JobError, match=f"output.*{reason}"):
        pipeline.segment(
            image(tmp_path),
            pipeline.Threshold(value=0.5),
            tmp_path / "out",
            engine=pipeline.local(),
            **output,
        )
    assert not (tmp_path / "out").exists()
