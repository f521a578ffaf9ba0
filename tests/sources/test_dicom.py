"""DICOM whole slides: what is read is the array that was written as tiles, and what pydicom decodes
of them.
"""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import JobError, SourceError, TilewiseError
from pipeline.image.grid import Box
from pipeline.sources import open_source, where_measured
from tests.sources.files import whole
from tests.sources.test_limits import mutations

pytest.importorskip("wsidicom", reason="needs wsidicom: the extra dicom")
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

MICROSCOPY = "1.2.840.10008.5.1.4.1.1.77.1.6"
TILE = 64
PIXELS = np.random.default_rng(0).integers(0, 255, (200, 300, 3), np.uint8)


def item(**values: object) -> Dataset:
    made = Dataset()
    for name, value in values.items():
        setattr(made, name, value)
    return made


def code(value: str, scheme: str, meaning: str) -> Dataset:
    return item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def write(path: Path, pixels: np.ndarray, millimetres: float, series: str, number: int) -> None:
    """Write (row, column, colour) as one level of a slide, in full tiles."""
    rows, columns, _ = pixels.shape
    high, wide = -(-rows // TILE), -(-columns // TILE)
    padded = np.zeros((high * TILE, wide * TILE, 3), np.uint8)
    padded[:rows, :columns] = pixels
    tiles = padded.reshape(high, TILE, wide, TILE, 3).swapaxes(1, 2)
    kind = (
        ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
        if number == 1
        else ["DERIVED", "PRIMARY", "VOLUME", "RESAMPLED"]
    )
    measures = item(
        PixelSpacing=[millimetres] * 2, SliceThickness=0.001, SpacingBetweenSlices=0.001
    )
    light = item(
        OpticalPathIdentifier="0",
        IlluminationTypeCodeSequence=[code("111744", "DCM", "Brightfield illumination")],
        IlluminationColorCodeSequence=[code("11744", "SCT", "Full Spectrum")],
    )
    shared = item(
        PixelMeasuresSequence=[measures],
        WholeSlideMicroscopyImageFrameTypeSequence=[item(FrameType=kind)],
        OpticalPathIdentificationSequence=[item(OpticalPathIdentifier="0")],
    )
    image = item(
        SOPClassUID=MICROSCOPY,
        SOPInstanceUID=generate_uid(),
        StudyInstanceUID=series,
        SeriesInstanceUID=series,
        FrameOfReferenceUID=series,
        Modality="SM",
        ImageType=kind,
        PatientID="x",
        PatientName="x",
        StudyDate="20260101",
        StudyTime="000000",
        ContentDate="20260101",
        ContentTime="000000",
        AcquisitionDateTime="20260101000000",
        Manufacturer="x",
        ManufacturerModelName="x",
        DeviceSerialNumber="x",
        SoftwareVersions="x",
        SeriesNumber=1,
        InstanceNumber=number,
        PositionReferenceIndicator="SLIDE_CORNER",
        Rows=TILE,
        Columns=TILE,
        SamplesPerPixel=3,
        PhotometricInterpretation="RGB",
        PlanarConfiguration=0,
        BitsAllocated=8,
        BitsStored=8,
        HighBit=7,
        PixelRepresentation=0,
        BurnedInAnnotation="NO",
        LossyImageCompression="00",
        VolumetricProperties="VOLUME",
        TotalPixelMatrixColumns=columns,
        TotalPixelMatrixRows=rows,
        TotalPixelMatrixFocalPlanes=1,
        NumberOfFrames=high * wide,
        ImagedVolumeWidth=columns * millimetres,
        ImagedVolumeHeight=rows * millimetres,
        ImagedVolumeDepth=0.001,
        DimensionOrganizationType="TILED_FULL",
        ImageOrientationSlide=[0, -1, 0, -1, 0, 0],
        FocusMethod="AUTO",
        ExtendedDepthOfField="NO",
        SpecimenLabelInImage="NO",
        NumberOfOpticalPaths=1,
        ContainerIdentifier="1",
        AcquisitionContextSequence=[],
        DimensionOrganizationSequence=[item(DimensionOrganizationUID=generate_uid())],
        TotalPixelMatrixOriginSequence=[
            item(XOffsetInSlideCoordinateSystem=0.0, YOffsetInSlideCoordinateSystem=0.0)
        ],
        OpticalPathSequence=[light],
        SharedFunctionalGroupsSequence=[shared],
        SpecimenDescriptionSequence=[
            item(SpecimenIdentifier="1", SpecimenUID=generate_uid(), SpecimenPreparationSequence=[])
        ],
        ContainerTypeCodeSequence=[code("433466003", "SCT", "Microscope slide")],
    )
    image.PixelData = tiles.tobytes()
    image["PixelData"].VR = "OB"
    image.file_meta = FileMetaDataset()
    image.file_meta.MediaStorageSOPClassUID, image.file_meta.MediaStorageSOPInstanceUID = (
        MICROSCOPY,
        image.SOPInstanceUID,
    )
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.save_as(path, enforce_file_format=True)


@pytest.fixture(scope="module")
def slide(tmp_path_factory) -> Path:
    """A slide of three levels, of 0.5, 1 and 2 microns."""
    folder, series = tmp_path_factory.mktemp("slide"), generate_uid()
    for k in range(3):
        write(folder / f"{k}.dcm", PIXELS[:: 1 << k, :: 1 << k], 0.0005 * (1 << k), series, k + 1)
    return folder


def test_levels(slide):
    """Each level is read as it was written, with its own size of a pixel, from the folder; a level
    that is not there is refused.
    """
    for k in range(3):
        source = open_source(slide, level=k)
        np.testing.assert_array_equal(
            whole(source), np.moveaxis(PIXELS[:: 1 << k, :: 1 << k], -1, 0)
        )
        np.testing.assert_allclose(source.frame.pixel_size, (0.5 * (1 << k),) * 2)
        assert (source.frame.unit, source.frame.dtype, source.frame.bands) == (
            "micrometer",
            "uint8",
            ("1", "2", "3"),
        )
    with pytest.raises(JobError, match=r"level: 3; .* has levels 0 to 2"):
        open_source(slide, level=3)


def test_first_tile_as_pydicom_decodes_it(slide):
    """The first tile is the frame that pydicom decodes."""
    frame = pydicom.dcmread(slide / "0.dcm").pixel_array[0]
    np.testing.assert_array_equal(
        open_source(slide).read(Box((0, 0), (TILE, TILE))), np.moveaxis(frame, -1, 0)
    )


@settings(max_examples=30)
@given(data=st.data())
def test_any_box(data, slide):
    """Any box of some bands is that part of the whole, and a glance has the pixels of one level."""
    bands = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    start = tuple(data.draw(st.integers(0, n - 1)) for n in (200, 300))
    stop = tuple(data.draw(st.integers(a + 1, n)) for a, n in zip(start, (200, 300), strict=True))
    source, box, step = (
        open_source(slide, bands=bands),
        Box(start, stop),
        data.draw(st.integers(1, 9)),
    )
    expected = np.moveaxis(PIXELS, -1, 0)[[band - 1 for band in bands]][(slice(None), *box.slices)]
    np.testing.assert_array_equal(source.read(box), expected)
    assert source.glance(box, step).shape == expected[:, ::step, ::step].shape


def test_threads_and_pickle(slide):
    """Many threads read one slide right; a source is a few bytes when pickled."""
    source = open_source(slide)
    boxes = [Box((r, c), (r + 60, c + 70)) for r in range(0, 140, 40) for c in range(0, 230, 40)]
    with ThreadPoolExecutor(8) as pool:
        for box, block in zip(boxes, pool.map(source.read, boxes), strict=True):
            np.testing.assert_array_equal(
                block, np.moveaxis(PIXELS, -1, 0)[(slice(None), *box.slices)]
            )
    assert len(pickle.dumps(source)) < 5000


def test_fingerprint(slide, tmp_path):
    """A fingerprint changes with any file of the slide and with the level that is read, and not
    with the folder.
    """
    for file in slide.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    before = open_source(slide).fingerprint()
    assert open_source(tmp_path).fingerprint() == before
    assert open_source(tmp_path, level=1).fingerprint() != before
    data = bytearray((tmp_path / "2.dcm").read_bytes())
    data[-10] ^= 1
    (tmp_path / "2.dcm").write_bytes(data)
    assert open_source(tmp_path).fingerprint() != before


@pytest.mark.filterwarnings("ignore::UserWarning")  # of pydicom, about values that it does not know
def test_damaged_files(slide, tmp_path):
    """A damaged slide gives pixels or an error that names it; nothing else is raised."""
    path, messages = tmp_path / "a.dcm", []
    data = (slide / "2.dcm").read_bytes()
    for changed in mutations(data, 60):
        path.write_bytes(changed)
        try:
            whole(open_source(path))
        except TilewiseError as error:
            messages.append(str(error))
    assert len(messages) > 10
    assert all("a.dcm" in message for message in messages)


def test_what_is_no_slide(tmp_path):
    """A file that is no DICOM is refused by name."""
    (tmp_path / "a.dcm").write_text("hello")
    with pytest.raises(SourceError, match=r"a\.dcm cannot be opened as a DICOM slide"):
        open_source(tmp_path / "a.dcm")


@pytest.mark.parametrize("bands", [None, [3, 1]], ids=["all", "blue and red"])
def test_one_colour_shares_what_was_measured(bands, slide):
    """With nodata a pixel is missing where red, green and blue all have it, whichever are read;
    with ``nodata_by: band`` each by itself.
    """
    value = int(PIXELS[5, 7, 0])
    chosen = [number - 1 for number in bands or (1, 2, 3)]
    source, box = open_source(slide, bands=bands, nodata=value), Box((0, 0), (90, 110))
    known = np.moveaxis(PIXELS[:90, :110] != value, -1, 0)
    expected = np.broadcast_to(known.any(axis=0), (len(chosen), 90, 110))
    np.testing.assert_array_equal(where_measured(source, box, source.read(box)), expected)
    alone = open_source(slide, bands=bands, nodata=value, nodata_by="band")
    np.testing.assert_array_equal(where_measured(alone, box, alone.read(box)), known[chosen])
