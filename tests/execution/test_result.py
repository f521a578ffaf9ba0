"""What a run leaves in Python's hands: labels, objects, record, and what Jupyter shows."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import dask.array as da
import numpy as np
import pytest
import rasterio
import xarray as xr
from PIL import Image
from scipy import ndimage

import pipeline
from pipeline.errors import OutputError, SegmenterError
from tests.faults.staging import blobs, write

EXPECTED = ndimage.label(blobs() > 100)[0]


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    folder = tmp_path_factory.mktemp("result")
    image = write(folder / "image.tif", blobs())
    return pipeline.segment(
        str(image),
        pipeline.Threshold(value=100),
        folder / "<out>",
        tile=32,
        engine=pipeline.local(),
    )


@pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")  # rioxarray's
def test_labels_are_lazy_and_placed(result):
    """The labels are a lazy DataArray whose coordinates and CRS are the image's, as rioxarray reads
    them.
    """
    import rioxarray  # noqa: F401

    labels = result.labels
    assert isinstance(labels, xr.DataArray)
    assert isinstance(labels.data, da.Array)
    np.testing.assert_array_equal(labels, EXPECTED)
    assert labels.rio.crs.to_epsg() == 32633
    assert labels.rio.transform() == rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)
    assert (float(labels.x[0]), float(labels.y[0])) == (500005.0, 4999995.0)


def test_objects_and_record(result):
    """The table has a row for each object; the record tells the job, the plan and the
    certificates.
    """
    table = result.objects
    assert list(table["id"]) == list(range(1, EXPECTED.max() + 1))
    np.testing.assert_array_equal(table["area"], np.bincount(EXPECTED.ravel())[1:])
    np.testing.assert_allclose(table["mean_1"], ndimage.mean(blobs(), EXPECTED, table["id"]))
    np.testing.assert_allclose(
        table["std_1"], ndimage.standard_deviation(blobs(), EXPECTED, table["id"])
    )
    rows, columns = np.transpose(ndimage.center_of_mass(EXPECTED > 0, EXPECTED, table["id"]))
    np.testing.assert_allclose(table["row"], rows)
    np.testing.assert_allclose(table["x"], 5e5 + 10 * (columns + 0.5))
    assert result.record["certificates"] == {"proved": len(table), "agreed": 0, "disputed": 0}
    assert result.record["job"]["segmenters"]["threshold"]["value"] == 100


class Tags(HTMLParser):
    """Checks that tags nest."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, _attributes: object) -> None:
        self.open.append(tag)

    def handle_startendtag(self, tag: str, _attributes: object) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_page(result):
    """In Jupyter a result is well-formed HTML that escapes paths and shows counts and a picture of
    the labels.
    """
    page = result._repr_html_()
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert result.path in tags.words
    assert "<out>" not in page
    assert f"{EXPECTED.max():,}" in tags.words
    (encoded,) = re.findall(r"data:image/png;base64,([^']+)'", page)
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))))
    background = (picture == picture[EXPECTED == 0][0]).all(axis=-1)
    np.testing.assert_array_equal(background, EXPECTED == 0)


IMAGES = {
    "NumPy": lambda image, _folder: image,
    "NumPy with bands": lambda image, _folder: np.stack([image, image]),
    "Dask": lambda image, _folder: da.from_array(image, chunks=20) * 1,
    "xarray": lambda image, _folder: xr.DataArray(image, dims=("y", "x")),
    "xarray of Dask": lambda image, _folder: (
        xr.DataArray(da.from_array(image, chunks=20), dims=("y", "x")) + 0
    ),
    "path": lambda image, folder: write(folder / "image.tif", image),
    "text": lambda image, folder: str(write(folder / "image.tif", image)),
}
SEGMENTERS = {
    "kind's name and options": {"kind": "threshold", "value": 100},
    "instance": pipeline.Threshold(value=100),
    "function": lambda block: ndimage.label(block[0] > 100)[0],
    "with valid": lambda block, valid: ndimage.label((block[0] > 100) & valid)[0],
}


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("segmenter", SEGMENTERS)
def test_any_image_and_any_segmenter(image, segmenter, tmp_path):
    """Whatever form an image and a segmenter have, the labels are the same."""
    given = IMAGES[image](blobs(), tmp_path)
    found = pipeline.segment(
        given, SEGMENTERS[segmenter], tmp_path / "out", tile=32, halo=8, engine=pipeline.local()
    )
    np.testing.assert_array_equal(found.labels, EXPECTED)


FAULTS = {
    "raises": (lambda block: 1 / 0, "raised ZeroDivisionError: division by zero"),
    "shape": (
        lambda block: block,
        r"returned the shape \(1, 64, 64\); a block of \(64, 64\) needs labels of that shape",
    ),
    "floats": (
        lambda block: block[0] * 0.5,
        "returned float64; labels are integers, 0 for background",
    ),
    "negative": (
        lambda block: -(block[0].astype(int)),
        "returned the label -250; labels are 0 or more",
    ),
    "mask": (lambda block: block[0] > 5, "returned a mask; number its objects"),
    "nothing": (lambda block: None, r"returned the shape \(\)"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_segmenters_that_cannot_be(fault, tmp_path):
    """A segmenter that raises, or returns what no labels can be, at every tile is an error that
    says so, and nothing is published.
    """
    segmenter, message = FAULTS[fault]
    with pytest.raises(
        SegmenterError, match=rf"no tile succeeded: tile \(0, 0\): the segmenter <lambda> {message}"
    ) as error:
        pipeline.segment(blobs(), segmenter, tmp_path / "out", engine=pipeline.local())
    assert error.value.exit_code == 2
    assert {path.name for path in (tmp_path / "out").iterdir()} == {".tilewise"}


def test_no_result(tmp_path):
    """Where there is no complete result, asking for one says so."""
    with pytest.raises(OutputError, match=r"holds no complete result: there is no run\.json"):
        pipeline.Result(str(tmp_path)).labels  # noqa: B018
