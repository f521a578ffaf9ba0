"""VRTs: what changes no pixel is no reason to refuse one, other VRTs are looked at alike, and a
pixel is the same in every window.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from rasterio.enums import Resampling
from rasterio.windows import Window

from pipeline.errors import SourceError
from pipeline.image.grid import Box
from pipeline.sources import open_source, where_measured
from pipeline.sources.vrt import DEEPEST, ELEMENTS, NEAREST, UNREAD
from tests.sources.files import tiff, whole

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

PIXELS = np.random.default_rng(0).integers(0, 200, (1, 64, 64), np.uint8)
HIST = "<HistItem><HistMin>0</HistMin><HistMax>9</HistMax><BucketCount>2</BucketCount><HistCounts>1|2</HistCounts></HistItem>"  # noqa: E501
RAT = (
    '<FieldDefn index="0"><Name>Value</Name><Type>0</Type><Usage>0</Usage></FieldDefn><Row '
    'index="0"><F>1</F></Row>'
)


def simple(
    name: str = "a.tif", inside: str = "", kind: str = "SimpleSource", attributes: str = ""
) -> str:
    start = (
        f"<{kind}{attributes}><SourceFilename "
        f'relativeToVRT="1">{name}</SourceFilename><SourceBand>1</SourceBand>'
    )
    return f"{start}{inside}</{kind}>"


def vrt(path: Path, band: str, *, around: str = "", attributes: str = "", size: int = 64) -> Path:
    path.write_text(
        f'<VRTDataset rasterXSize="{size}" rasterYSize="{size}"><SRS '
        f'dataAxisToSRSAxisMapping="1,2">EPSG:32633</SRS>'
        f"<GeoTransform>500000, 10, 0, 5000000, 0, -20</GeoTransform>{around}"
        f'<VRTRasterBand dataType="Byte" band="1"{attributes}>{band}</VRTRasterBand></VRTDataset>'
    )
    return path


RECT = '<{} xOff="0" yOff="0" xSize="64" ySize="64"/>'
READ = {
    "histograms": {"band": f"<Histograms>{HIST}</Histograms>{simple()}"},
    "attribute table": {
        "band": f"<GDALRasterAttributeTable "
        f'tableType="thematic">{RAT}</GDALRasterAttributeTable>{simple()}'
    },
    "category names": {
        "band": f"<CategoryNames><Category>none</Category><Category>tree</Category></CategoryNames>{simple()}"  # noqa: E501
    },
    "metadata": {
        "band": f'<Metadata domain="x"><MDI key="a">b</MDI></Metadata>{simple()}',
        "around": '<Metadata format="xml"><x:y xmlns:x="z"/></Metadata>',
    },
    "statistics": {"band": f'<Metadata><MDI key="STATISTICS_MEAN">7</MDI></Metadata>{simple()}'},
    "options of opening": {
        "band": simple(inside='<OpenOptions><OOI key="NUM_THREADS">2</OOI></OpenOptions>')
    },
    "no options": {"band": simple(inside="<OpenOptions/>")},
    "an overview of the source": {
        "band": simple(
            "pyramid.tif", '<OpenOptions><OOI key="OVERVIEW_LEVEL">0</OOI></OpenOptions>'
        )
    },
    "named class": {
        "band": simple(),
        "attributes": ' subClass="VRTSourcedRasterBand" blockXSize="32" blockYSize="32"',
    },
    "description, unit, scale": {
        "band": f"<Description>d</Description><UnitType>m</UnitType><Offset>1</Offset><Scale>2</Scale>{simple()}"  # noqa: E501
    },
    "colours": {
        "band": f'<ColorInterp>Palette</ColorInterp><ColorTable><Entry c1="1" c2="2" c3="3" '
        f'c4="255"/></ColorTable>{simple()}'
    },
    "nodata": {
        "band": f"<NoDataValue>7</NoDataValue><HideNoDataValue>0</HideNoDataValue>{simple()}"
    },
    "overview": {
        "band": f"{simple()}<Overview><SourceFilename "
        f'relativeToVRT="1">small.tif</SourceFilename><SourceBand>1</SourceBand></Overview>'
    },
    "list of overviews": {
        "band": simple(),
        "around": '<OverviewList resampling="nearest">2</OverviewList>',
    },
    "control points": {
        "band": simple(),
        "around": '<GCPList Projection="EPSG:32633"><GCP Id="1" Pixel="0" Line="0" X="1" Y="2" '
        'Z="0"/></GCPList>',
    },
    "mask": {
        "band": simple(),
        "around": f"<MaskBand><VRTRasterBand "
        f'dataType="Byte">{simple("mask.tif")}</VRTRasterBand></MaskBand>',
    },
    "rectangles": {"band": simple(inside=RECT.format("SrcRect") + RECT.format("DstRect"))},
    "properties": {
        "band": simple(
            inside='<SourceProperties RasterXSize="64" RasterYSize="64" DataType="Byte" '
            'BlockXSize="64"/>'
        )
    },
    "resampling of the same pixels": {"band": simple(attributes=' resampling="cubic"')},
    "complex": {
        "band": simple(
            inside="<ScaleOffset>1</ScaleOffset><ScaleRatio>0.5</ScaleRatio><NODATA>9</NODATA>",
            kind="ComplexSource",
        )
    },
    "table of values": {"band": simple(inside="<LUT>0:9,200:99</LUT>", kind="ComplexSource")},
    "nodata from a mask": {
        "band": "<NoDataValue>3</NoDataValue>"
        + simple(
            "masked.tif",
            "<NODATA>3</NODATA><MaskValueThreshold>1</MaskValueThreshold>",
            "NoDataFromMaskSource",
        ),
    },
    "another VRT": {"band": simple("deeper/b.vrt")},
}
"""What is read."""


def folder_of(tmp_path: Path) -> Path:
    """What the VRTs above refer to."""
    tiff(tmp_path / "a.tif", PIXELS)
    tiff(tmp_path / "mask.tif", (PIXELS > 50).astype(np.uint8) * 255)
    tiff(tmp_path / "small.tif", PIXELS[:, ::2, ::2])
    tiff(tmp_path / "pyramid.tif", np.repeat(np.repeat(PIXELS, 2, 1), 2, 2))
    with rasterio.open(tmp_path / "pyramid.tif", "r+") as file:
        file.build_overviews([2], Resampling.nearest)
    tiff(tmp_path / "masked.tif", PIXELS)
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(tmp_path / "masked.tif", "r+") as file,
    ):
        file.write_mask(PIXELS[0] > 90)
    (tmp_path / "deeper").mkdir()
    vrt(tmp_path / "deeper" / "b.vrt", simple("../a.tif"))
    return tmp_path


@pytest.mark.parametrize("name", READ)
def test_what_may_be_in_a_vrt(name, tmp_path):
    """A VRT with any of this is read, and masked, as rasterio reads it."""
    what = READ[name]
    path = vrt(
        folder_of(tmp_path) / "x.vrt",
        what["band"],
        around=what.get("around", ""),
        attributes=what.get("attributes", ""),
    )
    source, box = open_source(path), Box((0, 0), (64, 64))
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(whole(source), file.read())
        np.testing.assert_array_equal(
            where_measured(source, box, source.read(box)),
            np.broadcast_to(file.read_masks() > 0, (1, 64, 64)),
        )


def test_the_table_is_whole(tmp_path):
    """Every element that is allowed is in one of the VRTs above, but for what only others contain,
    and words of scaling.
    """
    seen = set()
    for what in READ.values():
        path = vrt(tmp_path / "x.vrt", what["band"], around=what.get("around", ""))
        seen |= {element.tag for element in ET.parse(path).iter()}
    scaling = {
        "SrcMin",
        "SrcMax",
        "DstMin",
        "DstMax",
        "Exponent",
        "Clamp",
        "ColorTableComponent",
        "UseMaskBand",
        "RemappedValue",
    }
    assert ELEMENTS - seen == scaling | {"NodataValue", "BlockXSize", "BlockYSize"}
    assert UNREAD <= ELEMENTS


REFUSED = {
    "derived": (
        simple(),
        ' subClass="VRTDerivedRasterBand"',
        "VRTRasterBand of VRTDerivedRasterBand is not allowed",
    ),
    "a function": (
        f"<PixelFunctionType>sum</PixelFunctionType>{simple()}",
        "",
        "PixelFunctionType is not allowed",
    ),
    "a function's code": (
        f"<PixelFunctionCode>x</PixelFunctionCode>{simple()}",
        "",
        "PixelFunctionCode is not allowed",
    ),
    "raw": (
        simple(),
        ' subClass="VRTRawRasterBand"',
        "VRTRasterBand of VRTRawRasterBand is not allowed",
    ),
    "warped": (
        simple(),
        ' subClass="VRTWarpedRasterBand"',
        "VRTRasterBand of VRTWarpedRasterBand is not allowed",
    ),
    "a class of nobody's": (simple(), ' subClass="Other"', "VRTRasterBand of Other is not allowed"),
    "a filter": (simple(kind="KernelFilteredSource"), "", "KernelFilteredSource is not allowed"),
    "means": (simple(kind="AveragedSource"), "", "AveragedSource is not allowed"),
    "an array": ("<ArraySource/>", "", "ArraySource is not allowed"),
    "resampling by means": (
        simple(attributes=' resampling="average"'),
        "",
        "resampling by average gives a pixel other values",
    ),
    "resampling by root of means": (
        simple(attributes=' resampling="RMS"'),
        "",
        "resampling by rms gives a pixel other values",
    ),
    "resampling to other pixels": (
        simple(
            inside=f'{RECT.format("SrcRect")}<DstRect xOff="0" yOff="0" xSize="50" ySize="64"/>',
            attributes=' resampling="bilinear"',
        ),
        "",
        "resampling by bilinear gives a pixel other values in other windows",
    ),
    "resampling by part of a pixel": (
        simple(
            inside=f'{RECT.format("SrcRect")}<DstRect xOff="0.5" yOff="0" xSize="64" ySize="64"/>',
            attributes=' resampling="lanczos"',
        ),
        "",
        "resampling by lanczos gives a pixel other values",
    ),
    "a root elsewhere": (
        simple(inside='<OpenOptions><OOI key="root_path">/etc</OOI></OpenOptions>'),
        "",
        "the option ROOT_PATH of",
    ),
    "an overview elsewhere": (
        f"{simple()}<Overview><SourceFilename>/etc/passwd</SourceFilename></Overview>",
        "",
        "refers to /etc/passwd",
    ),
    "a name in small letters": ("<simplesource/>", "", "simplesource is not allowed"),
    "a VRT within the name": (simple("&lt;VRTDataset/&gt;"), "", "no such file|no name of a file"),
    "a VRT that is refused": (simple("c.vrt"), "", r"c\.vrt: PixelFunctionType is not allowed"),
    "a VRT that leads elsewhere": (
        simple("d.vrt"),
        "",
        r"d\.vrt refers to /etc/passwd, which lies outside",
    ),
    "a circle": (simple("e.vrt"), "", r"e\.vrt refers to .*x\.vrt, which refers to it"),
    "itself": (simple("x.vrt"), "", r"x\.vrt refers to .*x\.vrt, which refers to it"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_may_not_be_in_a_vrt(name, tmp_path):
    """What runs code, leads elsewhere or depends on the window is refused by name, also in a VRT
    that another refers to.
    """
    folder_of(tmp_path)
    vrt(tmp_path / "c.vrt", f"<PixelFunctionType>sum</PixelFunctionType>{simple()}")
    vrt(
        tmp_path / "d.vrt",
        "<SimpleSource><SourceFilename>/etc/passwd</SourceFilename></SimpleSource>",
    )
    vrt(tmp_path / "e.vrt", simple("x.vrt"))
    band, attributes, message = REFUSED[name]
    with pytest.raises(SourceError, match=message):
        open_source(vrt(tmp_path / "x.vrt", band, attributes=attributes))


def test_vrts_within_each_other(tmp_path):
    """VRTs are followed to a depth and a number, and no further; all files that they lead to tell
    the image from others.
    """
    tiff(tmp_path / "a.tif", PIXELS)
    vrt(tmp_path / "0.vrt", simple())
    for k in range(1, DEEPEST + 1):
        vrt(tmp_path / f"{k}.vrt", simple(f"{k - 1}.vrt"))
    path = tmp_path / f"{DEEPEST - 1}.vrt"
    source = open_source(path)
    np.testing.assert_array_equal(whole(source), PIXELS)
    before = source.fingerprint()
    assert {Path(name).name for name in before["with"]} == {
        "a.tif",
        *(f"{k}.vrt" for k in range(DEEPEST - 1)),
    }
    with pytest.raises(
        SourceError,
        match=rf"0\.vrt is a VRT within {DEEPEST} others, of {DEEPEST + 1}; allowed: {DEEPEST} "
        rf"deep",
    ):
        open_source(tmp_path / f"{DEEPEST}.vrt")
    tiff(tmp_path / "a.tif", PIXELS + 1)
    assert open_source(path).fingerprint() != before


@pytest.mark.parametrize("how", [*sorted(NEAREST), "cubic", "mode"])
@given(data=st.data())
def test_a_pixel_is_the_same_in_every_window(how, data, tmp_path_factory):
    """However a source is brought to a VRT's pixels, a window of it is that part of the whole."""
    folder = tmp_path_factory.mktemp("window")
    tiff(folder / "a.tif", PIXELS, tiled=True, blockxsize=16, blockysize=16)
    size, at = (
        (data.draw(st.floats(20, 150)), data.draw(st.floats(0, 9)))
        if how in NEAREST
        else (64, data.draw(st.integers(0, 9)))
    )
    rects = (
        f'{RECT.format("SrcRect")}<DstRect xOff="{at}" yOff="{at}" xSize="{size}" ySize="{size}"/>'
    )
    kind = data.draw(st.sampled_from(["SimpleSource", "ComplexSource"]))
    source = open_source(
        vrt(
            folder / "a.vrt",
            simple(inside=rects, kind=kind, attributes=f' resampling="{how}"'),
            size=150,
        )
    )
    known = whole(source)
    for _ in range(6):
        start = [data.draw(st.integers(0, 149)) for _ in range(2)]
        box = Box(tuple(start), tuple(data.draw(st.integers(low + 1, 150)) for low in start))
        np.testing.assert_array_equal(source.read(box), known[(slice(None), *box.slices)])


def test_a_tie_between_pixels_is_settled_once(tmp_path):
    """Where a pixel of a VRT lies just between two of its source, GDAL takes another one in another
    window; here all windows agree.
    """
    path = tmp_path / "a.vrt"
    tiff(tmp_path / "a.tif", PIXELS)
    rects = (
        f'{RECT.format("SrcRect")}<DstRect xOff="1.2502124733038134" '
        f'yOff="1.2502124733038134" xSize="24" ySize="24"/>'
    )
    source = open_source(vrt(path, simple(inside=rects), size=150))
    known, otherwise = whole(source), 0
    with rasterio.open(path) as file:
        for row, column in itertools.product(range(0, 24, 2), repeat=2):
            box = Box((row, column), (row + 2, column + 2))
            np.testing.assert_array_equal(source.read(box), known[(slice(None), *box.slices)])
            otherwise += (
                file.read(window=Window(column, row, 2, 2)) != known[(slice(None), *box.slices)]
            ).sum()
    assert otherwise  # or it was no tie
