"""Options of readers: whichever reader, option and value, what cannot be is refused with its key,
its value and what is allowed.
"""

from __future__ import annotations

import json
import os
import typing
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import numpy as np
import pytest
import rasterio
import tifffile
import yaml
import zarr
from rasterio.errors import NotGeoreferencedWarning
from typer.testing import CliRunner

import pipeline
from pipeline.__main__ import app
from pipeline.config.options import typed
from pipeline.errors import JobError, SourceError
from pipeline.execution.planning import plan
from pipeline.sources import KINDS, open_source
from tests.sources.files import PLACE, tiff, whole

PIXELS = np.random.default_rng(2).integers(1, 200, (3, 24, 30), np.uint8)


def written(path: Path, driver: str, **place: object) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(
            path, "w", driver=driver, count=3, height=24, width=30, dtype="uint8", **place
        ) as file:
            file.write(PIXELS)
    return path


def mosaic(folder: Path) -> str:
    for number in range(2):
        tiff(
            folder / f"{number}.tif",
            PIXELS,
            transform=rasterio.Affine(10, 0, 5e5 + 300 * number, 0, -10, 5e6),
        )
    return str(folder / "*.tif")


def nifti(folder: Path) -> Path:
    nibabel = pytest.importorskip("nibabel", reason="needs nibabel: the extra volumes")
    nibabel.save(nibabel.Nifti1Image(PIXELS.transpose(2, 1, 0), np.eye(4)), folder / "a.nii")
    return folder / "a.nii"


def stack(folder: Path) -> Path:
    tifffile.imwrite(
        folder / "a.ome.tif",
        np.stack([PIXELS, PIXELS]),
        ome=True,
        photometric="minisblack",
        metadata={"axes": "ZCYX"},
    )
    return folder / "a.ome.tif"


def stac(folder: Path) -> Path:
    tiff(folder / "b.tif", PIXELS[:1])
    item = {
        "type": "Feature",
        "id": "a",
        "assets": {"red": {"href": "b.tif", "type": "image/tiff"}},
    }
    (folder / "a.json").write_text(json.dumps(item))
    return folder / "a.json"


def array(folder: Path) -> Path:
    stored = zarr.create_array(
        folder / "a.zarr",
        shape=PIXELS.shape,
        dtype="u1",
        chunks=(1, 12, 15),
        dimension_names=["c", "y", "x"],
    )
    stored[:] = PIXELS
    return folder / "a.zarr"


def slide(folder: Path) -> Path:
    pytest.importorskip("wsidicom", reason="needs wsidicom: the extra dicom")
    from tests.sources.test_dicom import write

    write(folder / "a.dcm", PIXELS.transpose(1, 2, 0), 0.0005, "1.2.3.4", 1)
    return folder / "a.dcm"


IMAGES: dict[str, Callable[[Path], Any]] = {
    "geotiff": lambda folder: tiff(folder / "a.tif", PIXELS),
    "raster": lambda folder: written(folder / "a.img", "HFA", **PLACE),
    "image": lambda folder: written(folder / "a.png", "PNG"),
    "mosaic": mosaic,
    "nifti": nifti,
    "tiff": stack,
    "stac": stac,
    "zarr": array,
    "dicom": slide,
}
"""By kind, an image that it reads."""


def reader(kind: str) -> type[Any]:
    module, name = KINDS[kind].split(":")
    found: type[Any] = getattr(import_module(module), name)
    return found


def options(kind: str) -> dict[str, Any]:
    """The options of a reader and their types."""
    return {
        name: wanted
        for name, wanted in typing.get_type_hints(reader(kind)).items()
        if name in reader(kind).__dataclass_fields__ and name != "path"
    }


EVERY = [(kind, option) for kind in KINDS for option in options(kind)]
WRONG = {
    int: ["abc", 1.5, True, [1], {"a": 1}, -7, 10**30],
    float: ["abc", True, [1.5], {"a": 1}, "1e"],
    bool: ["maybe", 1, "yes it is", [True]],
}
WRONG |= {str: [5, True, ["a"], {"a": 1}, "no such"]}
"""By type, what is none, or none that an image of a test has."""


def choices(wanted: Any) -> list[Any]:
    return list(get_args(wanted)) if get_origin(wanted) in (Union, UnionType) else [wanted]


def wrong(wanted: Any) -> list[Any]:
    """Values that an option of a type cannot have."""
    found: list[Any] = []
    for each in choices(wanted):
        if get_origin(each) is tuple:
            found += [1.5, True, {"a": 1}, [[1]], [1, True], [99], [0], ["no such"], []]
        elif get_origin(each) is Literal:
            found += ["no such", 5, True]
        elif each is not type(None):
            found += WRONG[each]
    kept = [
        value
        for value in found
        if not any(
            isinstance(value, each) and not isinstance(value, bool)
            for each in choices(wanted)
            if isinstance(each, type)
        )
    ]
    return kept + [value for value in found if value in ("no such", -7, 10**30)]


NOT_BY_TYPE = {"root": ["no such"], "nodata": [-7, 10**30]}
"""What may well be: any folder, any number."""


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Callable[[str], str]:
    made: dict[str, str] = {}

    def image(kind: str) -> str:
        if kind not in made:
            made[kind] = str(IMAGES[kind](tmp_path_factory.mktemp(kind)))
        return made[kind]

    return image


@pytest.fixture
def told(tmp_path, monkeypatch) -> Callable[..., str]:
    """What a command is answered that is wrong: exit code 2, no traceback, and nothing made."""
    monkeypatch.chdir(tmp_path)

    def tell(*arguments: str) -> str:
        found = CliRunner().invoke(app, arguments)
        assert (found.exit_code, found.stdout, list(tmp_path.iterdir())) == (2, "", []), (
            arguments,
            found.output,
            found.exception,
        )
        return found.stderr.removeprefix("tilewise: ").strip()

    return tell


@pytest.mark.parametrize(("kind", "option"), EVERY, ids=str)
def test_no_value_that_cannot_be(kind, option, images, told):
    """Each option of each reader refuses each value of another type, or that the image has not, and
    says what is allowed.
    """
    for value in (
        value for value in wrong(options(kind)[option]) if value not in NOT_BY_TYPE.get(option, [])
    ):
        said = told(
            "info",
            images(kind),
            "--source",
            f"kind={kind}",
            "--source",
            f"{option}={json.dumps(value)}",
        )
        assert option in said, said
        assert "allowed" in said or "has levels" in said or "has images" in said, said
        plain = (
            value[0]
            if isinstance(value, list) and value and option in ("bands", "channels")
            else value
        )
        assert any(text in said for text in (repr(value), repr(plain), str(value), "none;")), (
            value,
            said,
        )


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_from_a_job_file(kind, images, told, tmp_path_factory):
    """A job file whose reader is given what it cannot be ends before anything is made, with the
    path of the key.
    """
    option = next(name for name in ("time", "colours", "level") if name in options(kind))
    parts = {
        "source": {"kind": kind, "path": images(kind), option: "abc"},
        "segmenters": {"a": {"kind": "threshold", "value": 9}},
    }
    job = tmp_path_factory.mktemp("job") / "job.yaml"
    job.write_text(yaml.safe_dump({**parts, "output": {"path": "out"}}))
    assert told("run", str(job), "--workers", "0").startswith(f"source.{option}: 'abc'; allowed: ")
    assert told("run", str(job), "--workers", "0", "--set", f"source.{option}=[x]").startswith(
        f"source.{option}: ['x']; allowed: "
    )
    assert told(
        "segment",
        images(kind),
        "out",
        "--with",
        "threshold",
        "--workers",
        "0",
        "--source",
        f"kind={kind}",
        "--source",
        f"{option}=x",
    )


NUMBERS = {
    "nan": np.nan,
    ".nan": np.nan,
    "NaN": np.nan,
    "1e20": 1e20,
    "-3.4e38": -3.4e38,
    "-3.4e+38": -3.4e38,
    "-9999": -9999.0,
    "'-9999'": -9999.0,
    "0": 0.0,
    ".inf": np.inf,
    "-inf": -np.inf,
    "1.0e+20": 1e20,
}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "nodata" in options(kind)])
def test_nodata_is_any_number(kind, images):
    """`nodata` is a number as files, YAML and Python have it: NaN, with an exponent, as text, or
    NumPy's.
    """
    path = images(kind)
    for text, number in NUMBERS.items():
        found = CliRunner().invoke(
            app, ["info", path, "--source", f"kind={kind}", "--source", f"nodata={text}"]
        )
        assert found.exit_code == 0, found.output
        np.testing.assert_equal(yaml.safe_load(found.stdout)["nodata"], number)
    several = sorted(Path(path).parent.glob("*.tif")) if kind == "mosaic" else path
    for number in (np.float32(-3.4e38), np.uint8(7), np.array(7.0), np.nan, 1e20, "1e20"):
        np.testing.assert_equal(
            open_source(several, kind=kind, nodata=number).frame.nodata, float(number)
        )


@pytest.mark.parametrize("nodata", [np.nan, 1e20, -3.4e38])
def test_nodata_of_any_number_is_missing(nodata, tmp_path):
    """Where a file has the nodata that it is given, rasterio's mask of a file that says so itself
    is what is measured; twice is one run.
    """
    pixels = np.where(PIXELS[:1] > 150, nodata, PIXELS[:1]).astype(np.float32)
    stated, silent = (
        tiff(tmp_path / "stated.tif", pixels, nodata=float(np.float32(nodata))),
        tiff(tmp_path / "silent.tif", pixels),
    )
    job = pipeline.Job(
        source={"path": str(silent), "nodata": nodata},
        segmenters={"a": {"kind": "threshold", "value": 90}},
        output={"path": str(tmp_path / "out")},
    )
    result = pipeline.run(job, pipeline.local())
    with rasterio.open(stated) as file:
        expected = (file.read_masks(1) > 0) & (file.read(1) > 90)
    np.testing.assert_array_equal(result.labels.values > 0, expected)
    assert pipeline.run(job).record == result.record


LISTS = {
    "a number": 2,
    "a name": "2",
    "a list": [2],
    "a tuple": (2,),
    "an array": np.array([2]),
    "NumPy's number": np.int64(2),
    "a range": range(2, 3),
}


@pytest.mark.parametrize("form", LISTS)
def test_one_value_is_a_list_of_one(form, images):
    """One band is a list of one band; arrays and ranges are lists."""
    source = open_source(images("geotiff"), bands=LISTS[form])
    np.testing.assert_array_equal(whole(source), PIXELS[1:2])
    assert source == open_source(images("geotiff"), bands=[2]) or form == "a name"


MEANINGLESS = {
    "a level of a picture": (
        "image",
        {"level": 1},
        (
            "level: a source of kind image has no such option; .*level is an option of the source "
            "where its kind is dicom, geotiff"
        ),
    ),
    "planes of a GeoTIFF": (
        "geotiff",
        {"planes": "all"},
        (
            "planes: a source of kind geotiff has no such option; .*where its kind is nifti, "
            "tiff or "
            "zarr"
        ),
    ),
    "a time of a GeoTIFF": (
        "geotiff",
        {"time": 0},
        "time: a source of kind geotiff has no such option",
    ),
    "a level that there is not": ("geotiff", {"level": 1}, "level: 1;"),
    "a level of one": ("tiff", {"level": 1}, "level: 1;"),
    "an image that there is not": ("tiff", {"series": 1}, "series: 1;"),
    "a time without times": ("zarr", {"time": 1}, "time: 1; "),
    "the first time without times": ("zarr", {"time": 0}, "time: 0; "),
    "a time of a stack without": ("tiff", {"time": 0}, "time: 0; "),
    "a time of a volume without": ("nifti", {"time": 0}, "time: 0; "),
    "all planes without planes": ("zarr", {"planes": "all"}, "planes: 'all'; "),
    "a plane without planes": ("zarr", {"planes": 0}, "planes: 0; "),
    "colours of several bands": (
        "geotiff",
        {"colours": True},
        "colours: True; .* has no colour table",
    ),
    "colours of a picture of several bands": (
        "image",
        {"colours": True},
        "colours: True; .* has no colour table",
    ),
    "nothing to scale in a volume": ("nifti", {"scaled": True}, "scaled: True; "),
    "nothing to scale": ("geotiff", {"scaled": True}, "scaled: True; "),
    "nothing to scale in a mosaic": ("mosaic", {"scaled": True}, "scaled: True; "),
    "nothing to scale in an item": ("stac", {"scaled": True}, "scaled: True; "),
    "a folder of no VRT": ("geotiff", {"root": "."}, "root: '.'; .* is no VRT"),
    "a folder of no VRT in a mosaic's file": ("raster", {"root": "."}, "root: '.'; .* is no VRT"),
    "both words for bands": (
        "zarr",
        {"bands": [1], "channels": [1]},
        "channels and bands are both given",
    ),
    "axes of another number": ("zarr", {"axes": "yx"}, "axes: 'yx' for the shape"),
    "a snap beyond half a pixel": ("mosaic", {"snap": 3.0}, "snap: 3.0; allowed: 0 to 0.5"),
    "a snap that is no number": ("mosaic", {"snap": float("nan")}, "snap: nan; allowed: 0 to 0.5"),
    "an optical path that there is not": (
        "dicom",
        {"optical_path": "no such"},
        "optical_path: 'no such'",
    ),
}


@pytest.mark.parametrize("name", MEANINGLESS)
def test_what_means_nothing_is_refused(name, images):
    """An option that makes no difference to the image is refused, whichever reader it is."""
    kind, given, message = MEANINGLESS[name]
    path = images(kind)
    with pytest.raises(JobError, match=message):
        open_source(
            sorted(Path(path).parent.glob("*.tif")) if kind == "mosaic" else path,
            kind=kind,
            **given,
        )


MISPLACED = {
    "a segmenter's, in the source": (
        {"source": {"path": "a.tif", "min_area": 3}},
        r"source\.min_area: no source has such an option; min_area is an option of threshold$",
    ),
    "a segmenter's, in tiles": (
        {"tiles": {"min_area": 3}},
        (
            "tiles.min_area: there is no such key; allowed: halo, max_halo, size; min_area is an "
            "option of threshold"
        ),
    ),
    "a segmenter's, in the job": (
        {"min_area": 3},
        "min_area: there is no such key; .*; min_area is an option of threshold",
    ),
    "another segmenter's": (
        {"segmenters": {"a": {"kind": "threshold", "min_distance": 3}}},
        (
            r"segmenters\.a\.min_distance: there is no such option; .*; min_distance is an "
            r"option of "
            r".*watershed"
        ),
    ),
    "a tile's": (
        {"segmenters": {"a": {"kind": "threshold", "halo": 3}}},
        r"segmenters\.a\.halo: there is no such option; .*; halo is a key of tiles",
    ),
    "the source's": (
        {"segmenters": {"a": {"kind": "threshold", "nodata": 3}}},
        r"segmenters\.a\.nodata: there is no such option; .*; nodata is an option of the source",
    ),
    "the source's, in the job": (
        {"nodata": 0},
        "nodata: there is no such key; .*; nodata is an option of the source",
    ),
    "a segmenter's, in a step": (
        {"steps": [{"kind": "smooth", "min_area": 3}]},
        r"steps\[0\]\.min_area: there is no such option; .*; min_area is an option of",
    ),
    "a step's": (
        {"segmenters": {"a": {"kind": "threshold", "append": True}}},
        r"segmenters\.a\.append: .*; append is an option of the step index",
    ),
    "the output's": (
        {"picture": True},
        "picture: there is no such key; .*; picture is a key of output",
    ),
    "stitching's": (
        {"tiles": {"iou": 0.3}},
        "tiles.iou: there is no such key; .*; iou is a key of stitch",
    ),
    "another reader's": (
        {"source": {"path": "a.tif", "snap": 0.5}},
        (
            r"source\.snap: a source of kind geotiff has no such option; .*; snap is an option of "
            r"the source where its kind is mosaic"
        ),
    ),
}


@pytest.mark.parametrize("name", MISPLACED)
def test_what_stands_elsewhere(name, tmp_path, monkeypatch):
    """An option that is not known where it stands, and is somewhere else, is answered with where it
    belongs.
    """
    monkeypatch.chdir(tmp_path)
    tiff(tmp_path / "a.tif", PIXELS)
    parts, message = MISPLACED[name]
    with pytest.raises(JobError, match=message):
        plan(
            pipeline.Job(
                **{
                    "source": "a.tif",
                    "segmenters": {"a": {"kind": "threshold"}},
                    "output": {"path": "out"},
                    **parts,
                }
            ),
            workers=1,
            memory=1 << 30,
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "key", ["path=other.tif", "array=3", "image=other.tif", "3=4", "self=1", "=1", "level"]
)
def test_what_is_no_option(key, images, told):
    """An option that takes the place of the image, or is none, is refused by every command."""
    for command in (["info"], ["segment"]):
        more = ["out", "--with", "threshold", "--workers", "0"] if command == ["segment"] else []
        said = told(*command, images("geotiff"), *more, "--source", key)
        assert key != "path=other.tif" or "given beside the image" in said


NAMES = ["~", "~a.tif", "~$scene.tif", "~nobody", "~root"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_may_begin_with_a_tilde(name, tmp_path, monkeypatch):
    """A file whose name begins with ~ is read by that name; one that is not there is named so;
    ``~/`` is the user's folder.
    """
    monkeypatch.chdir(tmp_path)
    if name != "~root":
        with pytest.raises(
            SourceError, match="there is no image at" if name != "~" else "is a folder"
        ):
            open_source(name, kind="geotiff") if name != "~" else open_source(name)
    tiff(tmp_path / name, PIXELS)
    np.testing.assert_array_equal(whole(open_source(name, kind="geotiff")), PIXELS)
    monkeypatch.setenv("HOME", str(tmp_path))
    np.testing.assert_array_equal(whole(open_source(f"~/{name}", kind="geotiff")), PIXELS)


@pytest.mark.parametrize(
    "path",
    ["a\0b.tif", "a" * 5000 + ".tif", "", "nowhere/a.tif", "~/nowhere.tif"],
    ids=["null", "long", "empty", "folder", "home"],
)
def test_what_can_be_no_path(path):
    """A text that no file can be called is answered as an image that is not there."""
    with pytest.raises((SourceError, JobError), match=r"there is no image at|is a folder|path"):
        open_source(path)


class Own:
    """Something that only looks like an array."""

    shape, dtype = (3, 4), np.dtype("u1")


def foreign() -> dict[str, Any]:
    """Things that people have at hand, with what they are told to write."""
    pd, torch, PIL = (pytest.importorskip(name) for name in ("pandas", "torch", "PIL.Image"))  # noqa: N806
    return {
        "a list of arrays": (
            [PIXELS[0], PIXELS[1]],
            r"not list: of 2 arrays of \(24, 30\); write numpy.stack\(image\) with axes",
        ),
        "arrays of two shapes": (
            [PIXELS[0], PIXELS[1, :5]],
            "of 2 arrays of .*, .*; write one job for each",
        ),
        "a list of numbers": ([[1, 2], [3, 4]], "not list: write numpy.asarray"),
        "an empty list": ([], "an empty list holds no image"),
        "a tensor": (torch.zeros(3, 4), "not torch.Tensor: write image.numpy"),
        "a table": (
            pd.DataFrame({"a": [1, 2]}),
            "not pandas.*DataFrame: a table, or shapes, are no image; as seeds",
        ),
        "a column": (pd.Series([1, 2]), "not pandas.*Series: a table"),
        "a picture": (PIL.fromarray(PIXELS[0]), "not PIL.Image.Image: write numpy.asarray"),
        "a Zarr array": (
            zarr.zeros((3, 4)),
            "not zarr.*Array: give its path, or dask.array.from_zarr",
        ),
        "bytes": (b"II*", "not bytes: write it to a file"),
        "a number": (3.5, "not float$"),
        "NumPy's number": (np.float32(3), "not numpy.float32$"),
        "nothing": (None, "not NoneType$"),
        "a mapping": ({"a": 1}, "not dict$"),
        "a function": (len, "not builtin_function_or_method"),
        "one's own": (Own(), "not .*Own"),
    }


FOREIGN = [
    "a list of arrays",
    "arrays of two shapes",
    "a list of numbers",
    "an empty list",
    "a tensor",
    "a table",
    "a column",
    "a picture",
    "a Zarr array",
    "bytes",
    "a number",
    "NumPy's number",
    "nothing",
    "a mapping",
    "a function",
    "one's own",
]


@pytest.mark.parametrize("name", FOREIGN)
def test_what_only_looks_like_an_image(name):
    """What is no image here is answered with what it is, what is allowed, and what to write."""
    assert set(FOREIGN) == foreign().keys()
    image, message = foreign()[name]
    with pytest.raises(JobError, match=message) as refused:
        open_source(image)
    assert "a NumPy or Dask array" in str(refused.value) or "allowed" in str(refused.value)


def test_files_that_are_open(tmp_path):
    """A file that is open in another library is answered with its path; so is one that is read as
    bytes.
    """
    path = tiff(tmp_path / "a.tif", PIXELS)
    with rasterio.open(path) as raster, tifffile.TiffFile(path) as pages, path.open("rb") as file:
        for opened in (raster, pages, file):
            with pytest.raises(JobError, match=r"give (the|its) path"):
                open_source(opened)


def test_one_mechanism():
    """Values are of the types of annotations, whoever asks: NumPy's numbers are numbers, and text
    is one only as files have it.
    """
    assert typed(np.int64(3), int) == 3
    assert typed((1, 2), tuple[int, int]) == (1, 2)
    assert typed(Path("a"), str) == os.fspath(Path("a"))
    assert typed("1e3", float, stated=True) == 1000.0
    assert typed("1e3", float | str, stated=True) == "1e3"
    for value, wanted in (
        ("1e3", float),
        (np.nan, float),
        (1.0, int),
        (True, int),
        (np.True_, float),
        ("a", tuple[int, int]),
    ):
        with pytest.raises((TypeError, ValueError)):
            typed(value, wanted)
