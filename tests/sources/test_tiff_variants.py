"""TIFFs of many writers: which reader takes them, and that pixels, sizes, names and what was
measured are what was written.

What tifffile reads whole, or was given to write, is the oracle; for slides also OpenSlide.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from pipeline import local, segment
from pipeline.__main__ import app
from pipeline.errors import JobError, SourceError
from pipeline.image.grid import Box
from pipeline.sources import every, open_source, where_measured
from pipeline.sources.facts import FACTS, told
from pipeline.sources.raster import RasterFile
from pipeline.sources.tiff_metadata import resolution
from pipeline.sources.tiffs import TiffImage
from tests.sources.files import tiff, whole

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
codecs = pytest.mark.skipif(
    not __import__("importlib.util").util.find_spec("imagecodecs"),
    reason="needs imagecodecs: the extra slides",
)
DRAW = np.random.default_rng(0)
OME = '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"{root}>{images}</OME>'


def noise(*shape: int, dtype: type = np.uint16) -> np.ndarray:
    return DRAW.integers(1, 250, shape).astype(dtype)


def measured(source) -> np.ndarray:
    """Where each band was measured."""
    box = Box.whole(source.frame.shape)
    return where_measured(source, box, source.read(box))


def directories(path: Path) -> tuple[str, list[int]]:
    """The byte order of a plain TIFF, and where its directories begin."""
    with tifffile.TiffFile(path) as file:
        return file.byteorder, [page.offset for page in file.pages]


def set_tag(path: Path, code: int, values: dict[int, int], page: int = 0) -> None:
    """Write other numbers into a list of a tag, by place in it."""
    with tifffile.TiffFile(path) as file:
        tag = file.pages[page].tags[code]
        known, at, order = np.atleast_1d(tag.value).tolist(), tag.valueoffset, file.byteorder
        kind = {3: "H", 4: "I", 16: "Q"}[int(tag.dtype)]
    known = [values.get(k, value) for k, value in enumerate(known)]
    data = bytearray(path.read_bytes())
    struct.pack_into(f"{order}{len(known)}{kind}", data, at, *known)
    path.write_bytes(data)


def one_directory(path: Path) -> Path:
    """Leave a plain TIFF its first directory only, as ImageJ does with stacks of more than 4 GB."""
    order, (first, *_) = directories(path)
    data = bytearray(path.read_bytes())
    entries = struct.unpack_from(f"{order}H", data, first)[0]
    struct.pack_into(f"{order}I", data, first + 2 + 12 * entries, 0)
    path.write_bytes(data)
    return path


@settings(max_examples=40)
@given(data=st.data())
def test_ome(data, tmp_path_factory):
    """An OME-TIFF of any axes, layout and byte order, of a name that says nothing: its pixels,
    sizes, units and names are those written.
    """
    axes = data.draw(
        st.sampled_from(
            [
                "YX",
                "ZYX",
                "CYX",
                "TYX",
                "ZCYX",
                "CZYX",
                "TCZYX",
                "TZCYX",
                "YXS",
                "ZYXS",
                "CZYXS",
                "SYX",
                "ZSYX",
            ]
        )
    )
    rgb = "S" in axes
    length = {
        "Y": 34,
        "X": 50,
        "S": 3,
        **{letter: data.draw(st.integers(1, 3)) for letter in "TCZ"},
    }
    pixels = noise(
        *(length[letter] for letter in axes),
        dtype=data.draw(st.sampled_from([np.uint8, np.uint16, np.float32])),
    )
    tile = data.draw(st.sampled_from([None, (16, 32)]))
    units = {"µm": 1.0, "nm": 1e-3, "mm": 1e3, "inch": 25400.0, "Å": 1e-4, "pm": 1e-6}
    sizes = {
        letter: (data.draw(st.floats(0.01, 90)), data.draw(st.sampled_from(sorted(units))))
        for letter in "XYZ"
    }
    about = {f"PhysicalSize{letter}": size for letter, (size, _) in sizes.items()}
    about |= {
        f"PhysicalSize{letter}Unit": {"inch": "in"}.get(unit, unit)
        for letter, (_, unit) in sizes.items()
    }
    names = (
        data.draw(
            st.lists(
                st.sampled_from(["DAPI", "GFP", "Cy5"]), min_size=length["C"], max_size=length["C"]
            )
        )
        if "C" in axes
        else []
    )
    path = tmp_path_factory.mktemp("ome") / "a.tif"
    how = {"planarconfig": "separate" if "SY" in axes else "contig"} if rgb else {}
    channel = {"Channel": {"Name": names}} if names else {}
    tifffile.imwrite(
        path,
        pixels,
        ome=True,
        tile=tile,
        metadata={"axes": axes, **about, **channel},
        photometric="rgb" if rgb else "minisblack",
        byteorder=data.draw(st.sampled_from("<>")),
        bigtiff=data.draw(st.booleans()),
        **how,
    )
    number = data.draw(st.integers(0, length["T"] - 1))
    time = {"time": number} if "T" in axes and length["T"] > 1 else {}
    source = open_source(path, **time)
    assert isinstance(source, TiffImage)
    expected = pixels[None] if not {"C", "S"} & set(axes) else pixels
    axes = axes if {"C", "S"} & set(axes) else f"C{axes}"
    if "T" in axes:
        expected, axes = expected.take(number, axes.index("T")), axes.replace("T", "")
    if "C" in axes and "S" in axes:
        expected = np.moveaxis(expected, axes.index("S"), 1).reshape(
            -1, *(length[k] for k in axes if k in "ZYX")
        )
        axes = axes.replace("S", "")
    band = next(k for k, letter in enumerate(axes) if letter in "CS")
    expected = np.moveaxis(expected, band, 0)
    if "Z" in axes and length["Z"] == 1:
        expected = expected[:, 0]
    found = whole(source)
    np.testing.assert_array_equal(found, expected)
    box, step = (
        Box((*(0,) * (found.ndim - 3), 3, 5), (*found.shape[1:-2], 30, 41)),
        data.draw(st.integers(1, 4)),
    )
    np.testing.assert_array_equal(
        source.glance(box, step), every(expected[(slice(None), *box.slices)], step)
    )
    letters = "ZYX"[-len(source.frame.shape) :]
    assert source.frame.pixel_size == pytest.approx(
        [sizes[letter][0] * units[sizes[letter][1]] for letter in letters], rel=1e-6
    )
    assert (source.frame.unit, source.frame.unlike) == ("micrometer", ())
    if names and not rgb:
        assert len(set(source.frame.bands)) == len(names)
        assert [name.partition("_")[0] for name in source.frame.bands] == names
        np.testing.assert_array_equal(
            whole(open_source(path, bands=[source.frame.bands[-1]], **time))[0], expected[-1]
        )
    assert measured(source).all()


@settings(max_examples=30)
@given(data=st.data())
def test_imagej(data, tmp_path_factory):
    """An ImageJ hyperstack, whether each plane has a directory or the first alone: its pixels,
    sizes and labels are those written.
    """
    axes = data.draw(
        st.sampled_from(["YX", "ZYX", "CYX", "ZCYX", "TZCYX", "TYX", "TCYX", "YXS", "ZYXS"])
    )
    length = {
        "Y": 20,
        "X": 30,
        "S": 3,
        **{letter: data.draw(st.integers(2, 3)) for letter in "TCZ"},
    }
    pixels = noise(
        *(length[letter] for letter in axes), dtype=np.uint8 if "S" in axes else np.uint16
    )
    path = tmp_path_factory.mktemp("imagej") / "a.tif"
    units = [
        ("um", 1.0),
        ("micron", 1.0),
        ("\\u00B5m", 1.0),
        ("nm", 1e-3),
        ("mm", 1e3),
        ("inch", 25400.0),
    ]
    unit, microns = data.draw(st.sampled_from(units))
    apart = data.draw(st.sampled_from([None, 2.5, -2.5]))
    about = {"unit": unit, **({"spacing": apart} if apart else {})}
    labels = [f"label {k}" for k in range(length["C"])]
    tifffile.imwrite(
        path,
        pixels,
        imagej=True,
        byteorder=data.draw(st.sampled_from("<>")),
        resolution=(4.0, 2.0),
        metadata={"axes": axes, **about, **({"Labels": labels} if axes == "CYX" else {})},
    )
    if data.draw(st.booleans()):
        one_directory(path)
        with tifffile.TiffFile(path) as file:
            assert len(file.pages) == 1
    time = {"time": length["T"] - 1} if "T" in axes else {}
    source = open_source(path, **time)
    assert isinstance(source, TiffImage)
    expected, left = (pixels[-1], axes[1:]) if "T" in axes else (pixels, axes)
    band = next((k for k, letter in enumerate(left) if letter in "CS"), None)
    expected = expected[None] if band is None else np.moveaxis(expected, band, 0)
    np.testing.assert_array_equal(whole(source), expected)
    letters = "zyx"[-len(source.frame.shape) :]
    sizes = {"z": abs(apart or 0) * microns, "y": microns / 2, "x": microns / 4}
    known = [letter for letter in letters if sizes[letter]]
    assert [source.frame.pixel_size[letters.index(letter)] for letter in known] == pytest.approx(
        [sizes[letter] for letter in known]
    )
    assert source.frame.unlike == (() if known == list(letters) else (0,))
    if axes == "CYX":
        assert source.frame.bands == tuple(labels)


@settings(max_examples=30)
@given(data=st.data())
def test_alpha(data, tmp_path_factory):
    """Alpha, associated or not, beside colours or grey, in pages or planes, is no band: what it
    hides was not measured.
    """
    colour = data.draw(st.booleans())
    kind = data.draw(st.sampled_from(["ASSOCALPHA", "UNASSALPHA"]))
    form = data.draw(
        st.sampled_from(
            ["ome", "plain", "stack"] + (["imagej"] if colour and kind == "UNASSALPHA" else [])
        )
    )
    planar = data.draw(st.booleans()) and form != "imagej"
    planes = data.draw(st.integers(2, 3)) if form in ("stack", "imagej") else 1
    bands = 3 if colour else 1
    pixels = noise(planes, 40, 60, bands + 1, dtype=np.uint8)
    pixels[..., -1] = np.where(DRAW.random(pixels.shape[:-1]) < 0.4, 0, pixels[..., -1])
    stored = pixels if planes > 1 else pixels[0]
    stored = np.moveaxis(stored, -1, -3) if planar else stored
    path = tmp_path_factory.mktemp("alpha") / "a.tif"
    how = {"ome": {"ome": True}, "imagej": {"imagej": True, "metadata": {"axes": "ZYXS"}}}.get(
        form, {"metadata": None}
    )
    how |= {"tile": data.draw(st.sampled_from([None, (16, 16)]))} if form != "imagej" else {}
    how |= {
        "planarconfig": "separate" if planar else "contig",
        "photometric": "rgb" if colour else "minisblack",
    }
    tifffile.imwrite(path, stored, extrasamples=[kind], **how)
    source = open_source(path, kind="tiff")
    expected = np.moveaxis(pixels, -1, 0)
    expected = expected if planes > 1 else expected[:, 0]
    np.testing.assert_array_equal(whole(source), expected[:-1])
    known, box = (
        np.broadcast_to(expected[-1] > 0, expected[:-1].shape),
        Box.whole(source.frame.shape),
    )
    np.testing.assert_array_equal(measured(source), known)
    np.testing.assert_array_equal(
        where_measured(source, box, source.glance(box, 3), 3), every(known, 3)
    )
    assert source.facts["alpha"] == bands + 1
    asked = open_source(path, kind="tiff", bands=list(range(1, bands + 2)))
    np.testing.assert_array_equal(whole(asked), expected)
    assert measured(asked).all()
    if form == "plain":
        same = open_source(path, kind="geotiff")
        np.testing.assert_array_equal(whole(same), whole(source))
        np.testing.assert_array_equal(measured(same), measured(source))
    if form != "plain":
        assert isinstance(open_source(path), TiffImage)


def wanting(path: Path, gone: set[int], page: int = 0, *, how: str = "both") -> None:
    """Take blocks of a TIFF away: their places, their lengths, or both become 0."""
    with tifffile.TiffFile(path) as file:
        tiled = file.pages[page].is_tiled
    for code, which in ((324 if tiled else 273, "offset"), (325 if tiled else 279, "length")):
        if how in ("both", which):
            set_tag(path, code, dict.fromkeys(gone, 0), page)


@settings(max_examples=25)
@given(data=st.data())
def test_blocks_without_bytes(data, tmp_path_factory):
    """Tiles and strips of place or length 0 were not measured, of each band that has blocks of its
    own, and all else is as it was.
    """
    tile = data.draw(st.sampled_from([(32, 32), None]))
    separate, number = data.draw(st.booleans()), 2
    pixels = noise(number, 70, 90, dtype=np.uint8)
    path = tmp_path_factory.mktemp("gaps") / "a.ome.tif"
    how = {"tile": tile} if tile else {"rowsperstrip": 32}
    stored = pixels if separate else np.moveaxis(pixels, 0, -1)
    about = {
        "metadata": {"axes": "SYX" if separate else "YXS"},
        "planarconfig": "separate" if separate else "contig",
    }
    tifffile.imwrite(
        path,
        stored,
        ome=True,
        photometric="minisblack",
        extrasamples=["UNSPECIFIED"],
        **how,
        **about,
    )
    across = 3 if tile else 1
    down, blocks = 3, 3 * across * (number if separate else 1)
    gone = data.draw(st.sets(st.integers(0, blocks - 1), min_size=1))
    wanting(path, gone, how=data.draw(st.sampled_from(["both", "offset", "length"])))
    expected = np.ones_like(pixels, bool)
    for block in gone:
        band, row, column = block // (down * across), block // across % down, block % across
        where = (
            slice(row * 32, row * 32 + 32),
            slice(column * 32, column * 32 + 32) if tile else slice(None),
        )
        expected[(band if separate else slice(None), *where)] = False
    source, box = open_source(path), Box((5, 7), (66, 83))
    assert source.frame.masked
    np.testing.assert_array_equal(measured(source), expected)
    np.testing.assert_array_equal(whole(source), np.where(expected, pixels, 0))
    for step in (1, 2, 5):
        seen = where_measured(source, box, source.glance(box, step), step)
        np.testing.assert_array_equal(seen, expected[(slice(None), *box.slices)][:, ::step, ::step])
    np.testing.assert_array_equal(measured(open_source(path, bands=[2]))[0], expected[1])
    assert source.facts["missing_chunks"].startswith(
        f"{len(gone)} of {blocks} were never written, and count as not measured"
    )
    assert measured(open_source(path, missing_chunks="fill")).all()
    if len(gone) < blocks:
        lit = open_source(path, missing_chunks="error")
        with pytest.raises(SourceError, match=r"a\.ome\.tif: a block in .* was never written"):
            whole(lit)


def test_alpha_of_several_channels(tmp_path):
    """Each channel of several samples has its own alpha, and blocks that were never written are its
    own.
    """
    pixels = noise(2, 64, 64, 4, dtype=np.uint8)
    pixels[0, :20, :, 3] = pixels[1, 30:, :, 3] = 0
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, pixels, photometric="rgb", metadata={"axes": "CYXS"}, tile=(32, 32))
    wanting(path, {1}, page=0)
    source = open_source(path)
    known = np.broadcast_to(pixels[..., 3][:, None] > 0, (2, 3, 64, 64)).copy()
    known[0, :, :32, 32:] = False
    np.testing.assert_array_equal(measured(source), known.reshape(6, 64, 64))
    np.testing.assert_array_equal(whole(source)[3:], np.moveaxis(pixels[1, ..., :3], -1, 0))
    np.testing.assert_array_equal(measured(open_source(path, bands=[5])), known[1, :1])
    assert source.facts["colours"] == ["red", "green", "blue", "alpha"] * 2
    assert source.masked_by == "missing chunks or alpha"


@pytest.mark.parametrize("how", ["both", "offset"])
def test_pages_without_bytes(how, tmp_path):
    """Pages of a stack whose place is 0 were not measured, also where the others lie one after the
    other.
    """
    pixels = noise(4, 20, 30)
    tifffile.imwrite(
        tmp_path / "a.ome.tif", pixels, metadata={"axes": "ZYX"}, photometric="minisblack"
    )
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as file:
        assert file.series[0].dataoffset is not None
    wanting(tmp_path / "a.ome.tif", {0}, page=2, how=how)
    source = open_source(tmp_path / "a.ome.tif")
    assert measured(source)[0].all(axis=(1, 2)).tolist() == [True, True, False, True]
    np.testing.assert_array_equal(whole(source)[0][[0, 1, 3]], pixels[[0, 1, 3]])


def test_pyramid_of_a_stack(tmp_path):
    """Each plane and channel has its own levels, which are read as tifffile reads them."""
    fine = noise(2, 3, 128, 96)
    with tifffile.TiffWriter(tmp_path / "a.tif", ome=True) as file:
        about = {"axes": "CZYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.25, "PhysicalSizeZ": 2}
        file.write(fine, subifds=1, tile=(32, 32), photometric="minisblack", metadata=about)
        file.write(fine[..., ::2, ::2], subfiletype=1, tile=(32, 32), photometric="minisblack")
    for level, pixels in enumerate((fine, fine[..., ::2, ::2])):
        source = open_source(tmp_path / "a.tif", level=level)
        np.testing.assert_array_equal(whole(source), pixels)
        assert source.frame.pixel_size == pytest.approx((2.0, 0.25 * 2**level, 0.5 * 2**level))
    box = Box.whole(fine.shape[1:])
    seen = open_source(tmp_path / "a.tif").glance(box, 2)
    assert seen.shape == (2, 2, 64, 48)
    np.testing.assert_array_equal(seen, fine[:, ::2, ::2, ::2])


@pytest.mark.parametrize("bands", [None, [1], [3, 1], [1, 2, 3]])
@pytest.mark.parametrize("by", [None, "band", "pixel"])
def test_nodata_of_colours(bands, by, tmp_path):
    """Nodata in one colour is a colour: whichever of them are read, what was measured is what it is
    through GDAL.
    """
    pixels = noise(3, 40, 50, dtype=np.uint8)
    pixels[0, :20] = pixels[1, :, :30] = pixels[2, 10:] = 0
    tifffile.imwrite(
        tmp_path / "a.tif", np.moveaxis(pixels, 0, -1), photometric="rgb", metadata=None
    )
    one, other = (
        open_source(tmp_path / "a.tif", kind=kind, bands=bands, nodata=0, nodata_by=by)
        for kind in ("tiff", "geotiff")
    )
    np.testing.assert_array_equal(measured(one), measured(other))
    assert not measured(one).all()


@codecs
def test_slides_without_tiles(tmp_path):
    """A scanner's JPEG tiles that hold no bytes were not measured, also where only a coarser or
    only the finest level lacks them.
    """
    fine = np.full((256, 256, 3), 180, np.uint8)
    levels = [fine, fine[::2, ::2], fine[::4, ::4]]
    what = "Aperio Image Library v11\r\n256x256 (64x64) JPEG/RGB Q=30|AppMag = 20|MPP = 0.5"

    def written(name, gone):
        with tifffile.TiffWriter(tmp_path / name) as file:
            file.write(
                fine,
                tile=(64, 64),
                photometric="rgb",
                compression="jpeg",
                description=what,
                metadata=None,
            )
            file.write(
                fine[::8, ::8], photometric="rgb", description=what, metadata=None
            )  # the thumbnail
            for pixels in levels[1:]:
                file.write(
                    pixels,
                    tile=(64, 64),
                    photometric="rgb",
                    compression="jpeg",
                    description=what,
                    metadata=None,
                )
        for level, tiles in gone.items():
            wanting(tmp_path / name, tiles, level + (level > 0))
        return tmp_path / name

    whole_box = Box((0, 0), (256, 256))
    path = written("a.tif", {0: {5}})
    source = open_source(path)
    assert isinstance(source, TiffImage)
    assert (source.frame.pixel_size, source.frame.unit) == ((0.5, 0.5), "micrometer")
    expected = np.ones((256, 256), bool)
    expected[64:128, 64:128] = False
    np.testing.assert_array_equal(measured(source), np.broadcast_to(expected, (3, 256, 256)))
    for step in (2, 4):
        np.testing.assert_array_equal(
            where_measured(source, whole_box, source.glance(whole_box, step), step)[0],
            expected[::step, ::step],
        )
    with pytest.raises(SourceError, match="was never written"):
        open_source(path, missing_chunks="error").read(Box((60, 60), (70, 70)))
    coarse = open_source(written("b.tif", {1: {0}}))
    assert len(coarse.facts["levels"]) == 3
    assert measured(coarse).all()
    seen = where_measured(coarse, whole_box, coarse.glance(whole_box, 2), 2)
    assert not seen[:, :64, :64].any()
    assert seen.sum() == 3 * (128 * 128 - 64 * 64)


def test_a_slide_without_tiles_is_segmented_where_it_was_measured(tmp_path):
    """What dark objects a threshold finds is what it finds where tiles are: a tile without bytes is
    no object.
    """
    pixels = np.full((128, 128), 200, np.uint8)
    pixels[10:20, 10:20] = pixels[100:110, 100:110] = 20
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, pixels, tile=(64, 64), ome=True)
    wanting(path, {1})
    result = segment(
        path,
        {"kind": "threshold", "value": 100, "dark": True},
        tmp_path / "out",
        tile=64,
        engine=local(),
    )
    found = whole(open_source(tmp_path / "out" / "labels.zarr"))[0]
    assert result.record["objects"] == 2
    np.testing.assert_array_equal(found > 0, pixels < 100)


def ome_xml(images: str, root: str = "") -> str:
    return OME.format(root=root, images=images)


def ome_image(
    planes: int,
    *,
    uuid: str = "",
    name: str = "",
    size: tuple[int, int] = (20, 30),
    about: str = "",
    title: str = "",
) -> str:
    """An image of OME-XML, each plane of which lies in a file of a name, if one is given."""
    uuids = f'><UUID FileName="{name}">{uuid}</UUID></TiffData>' if name else "/>"
    places = "".join(
        f'<TiffData IFD="{k}" FirstZ="{k}" PlaneCount="1"{uuids}' for k in range(planes)
    )
    extent = f'SizeX="{size[1]}" SizeY="{size[0]}"'
    return (
        f'<Image ID="Image:0" Name="{title}"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" '
        f'Type="uint16" {extent} '
        f'SizeZ="{planes}" SizeC="1" SizeT="1" {about}><Channel ID="Channel:0:0" '
        f'SamplesPerPixel="1"/>{places}</Pixels></Image>'
    )


def described(path: Path, pixels: np.ndarray, xml: str) -> Path:
    tifffile.imwrite(path, pixels, description=xml, metadata=None, photometric="minisblack")
    return path


@pytest.mark.parametrize("root", ['UUID="urn:uuid:1"', ""], ids=["by its number", "by being alone"])
def test_renamed_ome(root, tmp_path):
    """An OME-TIFF that was renamed is read whole: it is known by its UUID, or, where it has none,
    as all planes lie in one file.
    """
    pixels = noise(3, 20, 30)
    path = described(
        tmp_path / "new.ome.tif",
        pixels,
        ome_xml(ome_image(3, uuid="urn:uuid:1", name="old.ome.tif"), f" {root}"),
    )
    source = open_source(path)
    np.testing.assert_array_equal(whole(source)[0], pixels)
    assert source.facts.get("files", []) == []
    assert measured(source).all()


def test_sets_of_files(tmp_path):
    """An OME-TIFF of several files is read whole; of one that is gone the name is told, also where
    the first was renamed.
    """
    pixels = noise(2, 20, 30)
    places = "".join(
        f'<TiffData IFD="0" FirstZ="{k}" PlaneCount="1"><UUID '
        f'FileName="{name}.ome.tif">urn:uuid:{name}</UUID></TiffData>'
        for k, name in enumerate("ab")
    )
    image = ome_image(2).replace(
        ome_image(2)[ome_image(2).index("<TiffData") : ome_image(2).index("</Pixels>")], places
    )
    for k, name in enumerate("ab"):
        described(
            tmp_path / f"{name}.ome.tif", pixels[k], ome_xml(image, f' UUID="urn:uuid:{name}"')
        )
    source = open_source(tmp_path / "a.ome.tif")
    np.testing.assert_array_equal(whole(source)[0], pixels)
    assert [Path(name).name for name in source.facts["files"]] == ["b.ome.tif"]
    (tmp_path / "a.ome.tif").rename(tmp_path / "c.ome.tif")
    np.testing.assert_array_equal(whole(open_source(tmp_path / "c.ome.tif"))[0], pixels)
    (tmp_path / "b.ome.tif").unlink()
    with pytest.raises(
        SourceError, match=r"c\.ome\.tif refers to b\.ome\.tif, and there is no such file"
    ):
        open_source(tmp_path / "c.ome.tif")


def test_metadata_in_a_companion(tmp_path):
    """An OME-TIFF whose metadata lie in a companion file beside it takes its axes and sizes from
    there; from elsewhere it takes nothing.
    """
    pixels = noise(3, 20, 30)
    size = 'PhysicalSizeX="0.5" PhysicalSizeY="0.25" PhysicalSizeZ="3" PhysicalSizeZUnit="nm"'
    (tmp_path / "a.companion.ome").write_text(
        ome_xml(ome_image(3, uuid="urn:uuid:1", name="a.ome.tif", about=size))
    )
    binary = '<BinaryOnly MetadataFile="{}" UUID="urn:uuid:9"/>'
    path = described(
        tmp_path / "a.ome.tif",
        pixels,
        ome_xml(binary.format("a.companion.ome"), ' UUID="urn:uuid:1"'),
    )
    source = open_source(path)
    np.testing.assert_array_equal(whole(source)[0], pixels)
    assert source.frame.pixel_size == pytest.approx((0.003, 0.25, 0.5))
    for name in (
        "../b.companion.ome",
        "/etc/passwd",
        "http://127.0.0.1:9/b.companion.ome",
        "gone.ome",
    ):
        described(path, pixels, ome_xml(binary.format(name)))
        with pytest.raises(SourceError, match=r"a\.ome\.tif refers to"):
            open_source(path)


def test_planes_that_are_not_there(tmp_path):
    """Planes that OME-XML names and the file does not have were not measured; that there are fewer
    is told.
    """
    pixels = noise(2, 20, 30)
    source = open_source(described(tmp_path / "a.ome.tif", pixels, ome_xml(ome_image(4))))
    np.testing.assert_array_equal(whole(source)[0, :2], pixels)
    np.testing.assert_array_equal(measured(source)[0].all(axis=(1, 2)), [True, True, False, False])
    assert not measured(source)[0, 2:].any()
    assert any("index out of range" in doubt for doubt in source.facts["not_understood"])


@pytest.mark.parametrize("order", ["XYZCT", "XYCZT", "XYZTC", "XYTCZ"])
def test_planes_in_any_order(order, tmp_path):
    """Planes lie where OME-XML says, in whichever order of dimensions, and whichever page
    each is.
    """
    length = {"Z": 2, "C": 3, "T": 2}
    places = [dict(zip("ZCT", at, strict=True)) for at in np.ndindex(2, 3, 2)]
    pages = DRAW.permutation(len(places))
    pixels = noise(len(places), 20, 30)
    firsts = [" ".join(f'First{letter}="{at}"' for letter, at in place.items()) for place in places]
    data = "".join(
        f'<TiffData IFD="{page}" PlaneCount="1" {first}/>'
        for first, page in zip(firsts, pages, strict=True)
    )
    about = " ".join(f'Size{letter}="{n}"' for letter, n in length.items())
    channels = "".join(
        f'<Channel ID="Channel:0:{k}" Name="{name}" SamplesPerPixel="1"/>'
        for k, name in enumerate("abc")
    )
    xml = (
        f'<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="{order}" Type="uint16" '
        f'SizeX="30" SizeY="20" {about}>{channels}{data}'
    )
    path = described(tmp_path / "a.tif", pixels, ome_xml(f"{xml}</Pixels></Image>"))
    for time in range(length["T"]):
        found = whole(open_source(path, time=time, bands=["c", "a"]))
        for band, channel in enumerate((2, 0)):
            for plane in range(length["Z"]):
                page = pages[places.index({"Z": plane, "C": channel, "T": time})]
                np.testing.assert_array_equal(found[band, plane], pixels[page])


def test_several_images(tmp_path):
    """Each image of an OME-TIFF has its own pixels, size and names, also where another before it
    has no pages.
    """
    parts = [
        ome_image(1, size=(20, 30), about='PhysicalSizeX="0.5" PhysicalSizeY="0.5"', title="one"),
        ome_image(
            1, size=(99, 99), about='PhysicalSizeX="9" PhysicalSizeY="9"', title="lost"
        ).replace('<TiffData IFD="0" ', "<Other "),
        ome_image(
            1,
            size=(40, 50),
            about='PhysicalSizeX="2" PhysicalSizeXUnit="inch" PhysicalSizeY="3"',
            title="two",
        ),
    ]
    parts[2] = parts[2].replace('IFD="0"', 'IFD="1"')
    pixels = noise(20, 30), noise(40, 50)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(pixels[0], description=ome_xml("".join(parts)), metadata=None)
        file.write(pixels[1], metadata=None)
    for number, size in ((0, (0.5, 0.5)), (1, (3.0, 50800.0))):
        source = open_source(tmp_path / "a.tif", series=number)
        np.testing.assert_array_equal(whole(source)[0], pixels[number])
        assert source.frame.pixel_size == pytest.approx(size)
    assert open_source(tmp_path / "a.tif").facts["images"] == ["one: 20 x 30", "two: 40 x 50"]


def test_units_that_are_none(tmp_path):
    """An axis of OME-XML whose unit is no length is told, and the sizes of the others are kept."""
    about = (
        'PhysicalSizeX="0.5" PhysicalSizeY="0.25" PhysicalSizeYUnit="microns" '
        'PhysicalSizeZ="3" PhysicalSizeZUnit="reference frame"'
    )
    source = open_source(
        described(tmp_path / "a.ome.tif", noise(3, 20, 30), ome_xml(ome_image(3, about=about)))
    )
    assert (source.frame.pixel_size[1:], source.frame.unit, source.frame.unlike) == (
        (0.25, 0.5),
        "micrometer",
        (0,),
    )
    strange = about.replace("reference frame", "cubits")
    source = open_source(
        described(tmp_path / "b.ome.tif", noise(3, 20, 30), ome_xml(ome_image(3, about=strange)))
    )
    assert source.frame.unlike == (0,)
    assert any("the unit along z is 'cubits'" in doubt for doubt in source.facts["not_understood"])
    for short, inches in (("pt", 1 / 72), ("li", 1 / 12), ("thou", 1e-3)):
        sizes = (
            f'PhysicalSizeX="1" PhysicalSizeXUnit="{short}" PhysicalSizeY="1" '
            f'PhysicalSizeYUnit="{short}"'
        )
        frame = open_source(
            described(
                tmp_path / f"{short}.ome.tif", noise(20, 30), ome_xml(ome_image(1, about=sizes))
            )
        ).frame
        assert frame.pixel_size == pytest.approx((inches * 25400,) * 2)


def test_pages_of_a_placed_file(tmp_path):
    """Of a placed TIFF of several pages the first is read, and that there are others is told."""
    tags = [(33550, "d", 3, (1.0, 1.0, 0.0), False), (33922, "d", 6, (0, 0, 0, 5.0, 6.0, 0), False)]
    pages = noise(3, 20, 30)
    tifffile.imwrite(
        tmp_path / "a.tif", pages, photometric="minisblack", extratags=tags, metadata=None
    )
    source = open_source(tmp_path / "a.tif")
    np.testing.assert_array_equal(whole(source)[0], pages[0])
    shown = told(source)
    assert shown["pages"] == 3
    assert any(
        "of its 3 pages the first is read; kind: tiff reads all" in doubt
        for doubt in shown["not_understood"]
    )
    np.testing.assert_array_equal(whole(open_source(tmp_path / "a.tif", kind="tiff"))[0], pages)


def test_what_a_file_is_called_does_not_matter(tmp_path):
    """A GeoTIFF is read with its place whatever its name, and what is no GeoTIFF by what its first
    page says.
    """
    pixels = noise(1, 30, 40)
    for name in ("a.tif", "a.ome.tif", "a.svs", "a.tf2"):
        source = open_source(tiff(tmp_path / name, pixels))
        assert isinstance(source, RasterFile), name
        assert source.frame.crs is not None
    tifffile.imwrite(tmp_path / "plain.tif", pixels[0], metadata=None)
    assert isinstance(open_source(tmp_path / "plain.tif"), RasterFile)
    tifffile.imwrite(tmp_path / "shaped.tif", pixels[0])
    assert isinstance(open_source(tmp_path / "shaped.tif"), RasterFile)
    for name in ("imagej.tif", "world.tif"):
        tifffile.imwrite(tmp_path / name, pixels[0], imagej=True)
    assert isinstance(open_source(tmp_path / "imagej.tif"), TiffImage)
    (tmp_path / "world.tfw").write_text("2\n0\n0\n-2\n100\n200\n")
    assert isinstance(open_source(tmp_path / "world.tif"), RasterFile)
    stack = noise(4, 20, 30)
    tifffile.imwrite(
        tmp_path / "one.tif", stack, metadata={"axes": "ZYX"}, photometric="minisblack"
    )
    np.testing.assert_array_equal(whole(open_source(one_directory(tmp_path / "one.tif")))[0], stack)
    with tifffile.TiffWriter(tmp_path / "pyramid.tif") as file:
        file.write(
            noise(256, 256),
            tile=(64, 64),
            metadata=None,
            resolution=(20000, 10000),
            resolutionunit="CENTIMETER",
        )
        file.write(noise(128, 128), tile=(64, 64), metadata=None, subfiletype=1)
    assert isinstance(open_source(tmp_path / "pyramid.tif"), RasterFile)


def test_microscopes_files_at_addresses(tmp_path):
    """A stack at an address is refused, whatever its form: GDAL would read its first page and say
    nothing.
    """
    pytest.importorskip("obstore", reason="needs obstore: the extra remote")
    from tests.storage.test_locations import served

    stack, page = noise(3, 20, 30), noise(20, 30)
    tifffile.imwrite(tmp_path / "stack.tif", stack, metadata=None, photometric="minisblack")
    tifffile.imwrite(tmp_path / "imagej.tif", stack, imagej=True)
    one_directory(tmp_path / "imagej.tif")
    tifffile.imwrite(tmp_path / "ome.tif", page, ome=True)
    described(tmp_path / "set.tif", page, ome_xml(ome_image(2)))
    tifffile.imwrite(tmp_path / "plain.tif", page, metadata=None)
    with served(tmp_path) as (address, _):
        for name in ("stack.tif", "imagej.tif", "set.tif"):
            with pytest.raises(
                JobError,
                match=rf"{name} is a stack, or another TIFF of several pages; .*kind: geotiff",
            ):
                open_source(f"{address}/{name}")
        np.testing.assert_array_equal(
            whole(open_source(f"{address}/stack.tif", kind="geotiff"))[0], stack[0]
        )
        for name in ("plain.tif", "ome.tif"):
            np.testing.assert_array_equal(whole(open_source(f"{address}/{name}"))[0], page)


@codecs
@pytest.mark.parametrize("codec", ["jpeg2000", "jpegxl", "jpegxr", "png", "webp", "lerc", "zstd"])
def test_codecs_that_gdal_lacks(codec, tmp_path):
    """A .tif in a codec that this GDAL has not is read by the reader that has it; one with a place
    is refused, with what can be done.
    """
    rows, columns = np.mgrid[:100, :120]
    pixels = np.stack([rows, columns, rows], -1).astype(np.uint8)
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, pixels, tile=(64, 64), photometric="rgb", compression=codec, metadata=None
    )
    np.testing.assert_array_equal(
        whole(open_source(path)), np.moveaxis(tifffile.imread(path), -1, 0)
    )
    try:
        rasterio.open(path).close()
        assert isinstance(open_source(path), RasterFile)
    except rasterio.errors.RasterioIOError:
        assert isinstance(open_source(path), TiffImage)
        tags = [
            (33550, "d", 3, (1.0, 1.0, 0.0), False),
            (33922, "d", 6, (0, 0, 0, 5.0, 6.0, 0), False),
        ]
        tifffile.imwrite(
            path,
            pixels,
            tile=(64, 64),
            photometric="rgb",
            compression=codec,
            metadata=None,
            extratags=tags,
        )
        with pytest.raises(
            SourceError,
            match=r"a\.tif.* missing codec .*kind: tiff reads its pixels, without their place",
        ):
            open_source(path)
        np.testing.assert_array_equal(
            whole(open_source(path, kind="tiff")), np.moveaxis(tifffile.imread(path), -1, 0)
        )


@pytest.mark.parametrize("unit", ["INCH", "CENTIMETER", "MILLIMETER", "MICROMETER", "NONE"])
@pytest.mark.parametrize("value", [1.0, 72.0, 28.35, 300.0, 118.11, 600, 2400.0, 20000.0, 101600.0])
def test_resolutions(unit, value, tmp_path):
    """A resolution is a size where OpenSlide takes it for one, but for those that cameras and
    printers put into any file.
    """
    openslide = pytest.importorskip("openslide")
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path,
        noise(64, 64, 3, dtype=np.uint8),
        tile=(64, 64),
        metadata=None,
        resolution=(value, value),
        resolutionunit=unit,
    )
    source = open_source(path, kind="tiff")
    known = openslide.OpenSlide(path).properties
    inches = {"INCH": value, "CENTIMETER": value * 2.54}.get(unit)
    printed = inches and (
        inches <= 2400 if unit == "INCH" else min(abs(inches - n) for n in (72, 300, 600)) < 0.5
    )
    if unit == "NONE" or value == 1 or printed:
        assert source.frame.unit == "pixel"
        assert (
            unit == "NONE"
            or value == 1
            or any(
                "as a printer or camera has it" in doubt for doubt in source.facts["not_understood"]
            )
        )
    elif "openslide.mpp-x" in known:
        assert source.frame.pixel_size == pytest.approx(
            (float(known["openslide.mpp-y"]), float(known["openslide.mpp-x"])), rel=1e-5
        )
    else:
        assert unit in ("MILLIMETER", "MICROMETER")
        assert source.frame.pixel_size == pytest.approx(
            (({"MILLIMETER": 1000}.get(unit, 1)) / value,) * 2, rel=1e-5
        )
    plain = open_source(path).frame
    assert isinstance(
        open_source(path), TiffImage if unit in ("MILLIMETER", "MICROMETER") else RasterFile
    )
    doubts = [
        told(open_source(path, kind=kind)).get("not_understood", [])
        for kind in ("geotiff", "tiff")
        if unit in ("INCH", "CENTIMETER")
    ]
    assert doubts[:1] == doubts[1:]
    assert (plain.pixel_size, plain.unit) == (
        pytest.approx(source.frame.pixel_size, rel=1e-5),
        source.frame.unit,
    )


def test_resolution_of_a_level(tmp_path):
    """Each level of a pyramid of one plain image has pixels as large as its extent makes them,
    through GDAL as through tifffile.
    """
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(
            noise(256, 130),
            tile=(64, 64),
            metadata=None,
            resolution=(20000, 10000),
            resolutionunit="CENTIMETER",
        )
        file.write(noise(128, 65), tile=(64, 64), metadata=None, subfiletype=1)
    for level in (0, 1):
        one, other = (
            open_source(tmp_path / "a.tif", kind=kind, level=level).frame
            for kind in ("geotiff", "tiff")
        )
        assert one.pixel_size == pytest.approx((1.0 * 2**level, 0.5 * 2**level)) == other.pixel_size
        assert (one.unit, other.unit) == ("micrometer", "micrometer")


def test_missing_resolution():
    """Nothing is a size that is none."""
    assert resolution(0.0, 0.0, 3) == ({}, None)
    assert resolution(20000.0, 20000.0, 1) == ({}, None)


SEM = "\r\nAP_IMAGE_PIXEL_SIZE\r\nImage Pixel Size = 4.5 nm\r\nDP_X\r\nX = 3\r\n"
FEI = "[Scan]\r\nPixelWidth=4.5e-009\r\nPixelHeight=9e-009\r\n"
METASERIES = (
    '<MetaData><prop id="Description" type="string" value="a"/><PlaneInfo><prop '
    'id="spatial-calibration-state" type="bool" value="on"/>'
    '<prop id="spatial-calibration-x" type="float" value="0.645"/><prop '
    'id="spatial-calibration-y" type="float" value="0.65"/>'
    '<prop id="spatial-calibration-units" type="string" value="um"/></PlaneInfo></MetaData>'
)
SCN = (
    '<?xml version="1.0"?><scn '
    'xmlns="http://www.leica-microsystems.com/scn/2010/10/01"><collection name="a" sizeX="60000" '
    'sizeY="40000">'
    '<image name="one"><pixels sizeX="60" sizeY="40"><dimension sizeX="60" sizeY="40" r="0" '
    'ifd="0"/></pixels>'
    '<view sizeX="30000" sizeY="10000" offsetX="0" offsetY="0"/></image></collection></scn>'
)
PERKIN = "<PerkinElmer-QPI-ImageDescription><Name>{}</Name><ImageType>FullResolution</ImageType></PerkinElmer-QPI-ImageDescription>"  # noqa: E501


SPACING = '<Attribute Name="DICOM_PIXEL_SPACING">"{0}" "{1}"</Attribute></DataObject>'
PHILIPS = (
    '<?xml version="1.0"?><DataObject ObjectType="DPUfsImport"><Attribute><Array>'
    + "".join(
        f"<DataObject "
        f'ObjectType="PixelDataRepresentation">{SPACING.format(0.0005 * n, 0.00025 * n)}'
        for n in (1, 2)
    )
    + "</Array></Attribute></DataObject>"
)
XMP = b'<Metadata><iScan Magnification="20" ScanRes="0.465"/></Metadata>'


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"description": PHILIPS, "software": "Philips DP v1.0"}, (0.5, 0.25)),
        (
            {
                "description": "level=0 mag=20 quality=90",
                "software": "ScanOutputManager 1.1",
                "extratags": [(700, 1, len(XMP), XMP, True)],
            },
            (0.465, 0.465),
        ),
        ({"extratags": [(34118, "s", 0, SEM, True)]}, (0.0045, 0.0045)),
        ({"extratags": [(34682, "s", 0, FEI, True)]}, (0.009, 0.0045)),
        ({"description": METASERIES, "software": "MetaSeries"}, (0.65, 0.645)),
        ({"description": SCN}, (0.25, 0.5)),
        (
            {"description": "Aperio Image Library v11\r\n60x40|AppMag = 20|MPP = 0.2525"},
            (0.2525, 0.2525),
        ),
        (
            {"description": "SCIFIO=0.1\nunit=micron\nspacing=1\n", "resolution": (4.0, 2.0)},
            (0.5, 0.25),
        ),
        (
            {"description": "ImageJ=1.53\nunit=\\u00B5m\nyunit=nm\n", "resolution": (4.0, 0.002)},
            (0.5, 0.25),
        ),
    ],
    ids=[
        "Philips",
        "Ventana",
        "Zeiss SEM",
        "FEI",
        "MetaSeries",
        "Leica SCN",
        "Aperio",
        "SCIFIO",
        "ImageJ",
    ],
)
def test_sizes_of_other_kinds(options, size, tmp_path):
    """Microscopes' own tags and texts tell the size of a pixel of a .tif of one page."""
    pixels = noise(40, 60, dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, metadata=None, **options)
    source = open_source(tmp_path / "a.tif")
    assert isinstance(source, TiffImage)
    np.testing.assert_array_equal(whole(source)[0], pixels)
    assert (source.frame.pixel_size, source.frame.unit) == (pytest.approx(size), "micrometer")


def test_metadata_that_cannot_be_read(tmp_path):
    """What a microscope's metadata garble is told, and the pixels are read."""
    pixels = noise(40, 60, dtype=np.uint8)
    garbled = METASERIES.replace("spatial-calibration-x", "other")
    tifffile.imwrite(
        tmp_path / "a.tif", pixels, metadata=None, description=garbled, software="MetaSeries"
    )
    source = open_source(tmp_path / "a.tif")
    np.testing.assert_array_equal(whole(source)[0], pixels)
    assert source.frame.unit == "pixel"
    assert any(
        "of the kind metaseries cannot be read" in doubt for doubt in source.facts["not_understood"]
    )


@pytest.mark.parametrize("size", ["nan", "inf", "-1", "0", "1e400"])
def test_sizes_that_are_none(size, tmp_path):
    """An extent that is no length is not taken, and told; that along the other axis is."""
    xml = ome_xml(ome_image(1, about=f'PhysicalSizeX="{size}" PhysicalSizeY="0.5"'))
    source = open_source(described(tmp_path / "a.ome.tif", noise(20, 30), xml))
    assert (source.frame.pixel_size[0], source.frame.unlike) == (0.5, (1,))
    assert any(
        "along x" in doubt and "which is none" in doubt for doubt in source.facts["not_understood"]
    )


def test_more_planes_than_there_can_be(tmp_path):
    """A description of one piece that is longer than the file is refused before anything
    is read.
    """
    tifffile.imwrite(
        tmp_path / "a.tif", noise(20, 30), description='{"shape": [1000000, 20, 30]}', metadata=None
    )
    with pytest.raises(
        SourceError,
        match=r"a\.tif declares 1000000 x 20 x 30 pixels in one piece, more than a file of \d+ "
        r"bytes can hold",
    ):
        open_source(tmp_path / "a.tif")


def test_names_of_channels(tmp_path):
    """PerkinElmer's pages name channels; names that repeat are told apart."""
    pixels = noise(3, 40, 60)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for name, page in zip(("DAPI", "DAPI", "Opal 520"), pixels, strict=True):
            file.write(
                page, description=PERKIN.format(name), software="PerkinElmer-QPI", metadata=None
            )
    source = open_source(tmp_path / "a.tif")
    assert source.frame.bands == ("DAPI", "DAPI_2", "Opal 520")
    np.testing.assert_array_equal(
        whole(open_source(tmp_path / "a.tif", bands=["DAPI_2"]))[0], pixels[1]
    )


def test_pages_of_which_nothing_is_said(tmp_path):
    """A stack that names no axes is a volume, and what else it might be is told."""
    tifffile.imwrite(tmp_path / "a.tif", noise(3, 20, 30), photometric="minisblack")
    source = open_source(tmp_path / "a.tif")
    assert source.frame.shape == (3, 20, 30)
    assert any("axes: cyx" in doubt for doubt in source.facts["not_understood"])
    assert open_source(tmp_path / "a.tif", axes="cyx").frame.bands == ("1", "2", "3")
    assert open_source(tmp_path / "a.tif", axes="cyx").facts.get("not_understood") == []


def test_facts(tmp_path):
    """What is told of a TIFF is what tifffile finds: levels, images, channels, colours, alpha,
    sizes, and what was not understood.
    """
    path = tmp_path / "a.ome.tif"
    fine = noise(128, 128, 4, dtype=np.uint8)
    with tifffile.TiffWriter(path, ome=True) as file:
        about = {
            "axes": "YXS",
            "PhysicalSizeX": 0.25,
            "PhysicalSizeY": 3,
            "PhysicalSizeYUnit": "ft",
            "TimeIncrement": 2.5,
        }
        file.write(fine, subifds=1, metadata=about, tile=(64, 64), photometric="rgb")
        file.write(fine[::2, ::2], subfiletype=1, tile=(64, 64), photometric="rgb")
        file.write(noise(2, 20, 30), metadata={"axes": "CYX"}, photometric="minisblack")
    facts = open_source(path).facts
    assert set(facts) <= set(FACTS)
    shown = json.loads(CliRunner().invoke(app, ["info", str(path), "--json"]).output)
    assert {name: shown[name] for name in told(open_source(path))} == json.loads(
        json.dumps(told(open_source(path)))
    )
    with tifffile.TiffFile(path) as file:
        assert facts["pages"] == len(file.pages)
        assert facts["levels"] == [list(level.shape[:2]) for level in file.series[0].levels]
        assert [each.rpartition(": ")[2] for each in facts["images"]] == [
            " x ".join(map(str, each.shape)) for each in file.series
        ]
    assert (facts["format"], facts["axes"], facts["stored"]) == ("OME-TIFF", "yxc", [128, 128, 4])
    assert (facts["colours"], facts["alpha"], facts["mask"]) == (
        ["red", "green", "blue", "alpha"],
        4,
        "alpha",
    )
    assert facts["sizes"] == {"x": "0.25 µm", "y": "3 ft", "t": "2.5 s"}
    assert facts["not_understood"] == []
    assert open_source(path).frame.pixel_size == pytest.approx((3 * 304800, 0.25))
    stack = open_source(path, series=1, channels=[2]).facts
    assert (stack["channels"], stack["colours"]) == (["1", "2"], ["grey", "grey"])


@codecs
@pytest.mark.parametrize(
    "name", ["cmu-1", "instanseg_HE", "instanseg_Fluorescence", "stardist_img3d"]
)
def test_real_files_by_their_first_page(name, shared, tmp_path):
    """Real files go to the reader that takes what they say when they are called .tif, and are read
    as tifffile reads them.
    """
    found = next(
        path for path in sorted(shared.rglob(f"{name}*")) if path.suffix in (".svs", ".tif")
    )
    path = tmp_path / "a.tif"
    path.symlink_to(found)
    source = open_source(path)
    assert isinstance(source, TiffImage)
    with tifffile.TiffFile(found) as file:
        expected, axes, page = file.series[0].asarray(), file.series[0].axes, file.pages.first
        written = page.resolution if page.resolutionunit == 3 else None
    expected = (
        np.moveaxis(expected, -1, 0)
        if axes == "YXS"
        else expected
        if axes == "CYX"
        else expected[None]
    )
    np.testing.assert_array_equal(whole(source), expected)
    if name == "instanseg_HE":
        assert source.frame.pixel_size == pytest.approx(
            (1e4 / written[1], 1e4 / written[0]), rel=1e-6
        )
    if name == "cmu-1":
        openslide = pytest.importorskip("openslide")
        known = openslide.OpenSlide(found).properties
        assert source.frame.pixel_size == pytest.approx(
            (float(known["openslide.mpp-y"]), float(known["openslide.mpp-x"]))
        )
