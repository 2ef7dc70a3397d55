"""The outcome of each kind of DICOM file and series: the difference to pydicom, or the refusal.

Kinds are the test files of pydicom and series made here with one tag changed. ``--write`` stores the table as
``docs/reference/dicom-support.md``; a test compares both.

    python tools/reliability/dicom.py --write
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pydicom
from highdicom.legacy import LegacyConvertedEnhancedCTImage
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.pixels import apply_modality_lut
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RLELossless

from monai_pdddpm.data import LoadScan
from monai_pdddpm.utils.errors import UserError

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "dicom-support.md"
FILES = (
    *("CT_small.dcm", "MR_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm"),
    *("MR_small_padded.dcm", "MR_small_jpeg_ls_lossless.dcm", "MR_small_jp2klossless.dcm", "J2K_pixelrep_mismatch.dcm"),
    *("JPEG2000.dcm", "JPEG-lossy.dcm", "JPGExtended.dcm", "693_J2KI.dcm", "MR_truncated.dcm", "image_dfl.dcm"),
    *("liver_1frame.dcm", "rtdose.dcm", "rtplan.dcm", "SC_rgb_small_odd.dcm", "examples_palette.dcm"),
    *("ExplVR_BigEndNoMeta.dcm", "ExplVR_LitEndNoMeta.dcm", "no_meta.dcm", "reportsi.dcm", "waveform_ecg.dcm"),
)
VOXELS = np.random.default_rng(3).integers(-900, 900, (6, 5, 4)).astype(np.int16)
INTRODUCTION = """# DICOM: what is read, what is refused

Each row is a file of pydicom's tests, or a series of four slices in which one tag was changed. *Difference* is the
largest difference between a voxel as loaded and the value of pydicom (`apply_modality_lut(pixel_array)`), or the value
known beforehand. Enhanced files are made by highdicom. A refusal is one line; the other cases of a run are processed.
`python tools/reliability/dicom.py --write` makes this page.

| kind | outcome |
|---|---|
"""
Change = Callable[[int, Dataset], None]


def write_series(folder: Path, change: Change, array: np.ndarray = VOXELS) -> None:
    """Write an array (X, Y, Z) of int16 as a CT series with one file a slice."""
    for number in range(array.shape[2]):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, f"1.2.3.1.{number + 1}"
        meta.TransferSyntaxUID, meta.ImplementationClassUID = ExplicitVRLittleEndian, "1.2.3.4"
        ds = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
        ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = CTImageStorage, f"1.2.3.1.{number + 1}", "CT"
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.InstanceNumber = "1.2.3", "1.2.3.1", number + 1
        ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, 2 * number], [1, 0, 0, 0, 1, 0]
        ds.PixelSpacing, ds.SliceThickness = [1, 1], 2
        ds.Columns, ds.Rows = array.shape[:2]
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 1
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
        ds.PixelData = np.ascontiguousarray(array[:, :, number].T).astype("<i2").tobytes()
        change(number, ds)
        ds.save_as(folder / f"IM{number:04d}", enforce_file_format=True)


def to_enhanced(folder: Path) -> None:
    """Replace a series by the enhanced file that highdicom makes of it."""
    files = sorted(folder.iterdir(), reverse=True)  # frames in another order than the slices
    slices = [pydicom.dcmread(file) for file in files]
    for ds in slices:
        for name in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID"):
            setattr(ds, name, "")
        ds.StudyDate = ds.ContentDate = "20260101"
        ds.StudyTime = ds.ContentTime = "120000"
        ds.ReferringPhysicianName, ds.Manufacturer, ds.SeriesNumber, ds.FrameOfReferenceUID = "", "x", 1, "1.2.3.9"
        ds.PositionReferenceIndicator, ds.ImageType, ds.AcquisitionDateTime = "", ["ORIGINAL", "PRIMARY", "AXIAL"], ""
    one = LegacyConvertedEnhancedCTImage(slices, "1.2.3.2", 2, "1.2.3.2.1", 1)
    for file in files:
        file.unlink()
    one.save_as(folder / "enhanced.dcm")


def tags(**values: object) -> Change:
    """Return a change that sets tags of all slices."""

    def change(number: int, ds: Dataset) -> None:
        for name, value in values.items():
            setattr(ds, name, value)

    return change


def _table(number: int, ds: Dataset) -> None:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS", [1801, -900, 16])
    item.ModalityLUTType = "HU"
    item.add_new("LUTData", "OW", np.arange(1801, dtype="<u2").tobytes())
    ds.ModalityLUTSequence = [item]


def _twelve_bits(number: int, ds: Dataset) -> None:
    stored = np.frombuffer(ds.PixelData, "<i2") & 0x0FFF
    ds.BitsStored, ds.HighBit, ds.PixelData = 12, 11, stored.astype("<u2").tobytes()


def _unsigned(number: int, ds: Dataset) -> None:
    stored = np.frombuffer(ds.PixelData, "<i2").astype("<i4") + 1024
    ds.PixelRepresentation, ds.RescaleIntercept, ds.RescaleSlope = 0, -1024, 1
    ds.PixelData = stored.astype("<u2").tobytes()


def _unsigned_padding(number: int, ds: Dataset) -> None:
    ds.add_new("PixelPaddingValue", "US", 65536 - 900)


def _frames(number: int, ds: Dataset) -> None:
    ds.NumberOfFrames, ds.PixelData = 2, ds.PixelData * 2


def _both(number: int, ds: Dataset) -> None:
    tags(RealWorldValueMappingSequence=[Dataset()], RescaleSlope=3, RescaleIntercept=1)(number, ds)


def _empty_slope(number: int, ds: Dataset) -> None:
    ds.RescaleIntercept = -1000
    ds.add_new("RescaleSlope", "DS", "")


def _mosaic(number: int, ds: Dataset) -> None:
    ds.private_block(0x19, "SIEMENS MR HEADER", create=True).add_new(0x0A, "US", 16)


def _real_numbers(number: int, ds: Dataset) -> None:
    ds.FloatPixelData, ds.BitsAllocated = (np.frombuffer(ds.PixelData, "<i2") * np.float32(0.5)).tobytes(), 32
    del ds.PixelData, ds.PixelRepresentation, ds.BitsStored, ds.HighBit


def _concatenated(number: int, ds: Dataset) -> None:
    ds.InConcatenationNumber, ds.InConcatenationTotalNumber = number + 1, 5


def _half(name: str, *values: object) -> Change:
    """Return a change that sets one value in the first two slices and another in the others."""
    return lambda n, ds: setattr(ds, name, values[n // 2])


PADDING = tags(PixelPaddingValue=-900, PixelPaddingRangeLimit=-500)
PADDED = np.where(VOXELS <= -500, VOXELS[VOXELS > -500].min(), VOXELS)
SERIES: tuple[tuple[str, Change, np.ndarray | None], ...] = (
    ("as CT and MR scanners write it", tags(), VOXELS),
    ("rescale slope and intercept", tags(RescaleSlope=2, RescaleIntercept=-1000), 2.0 * VOXELS - 1000),
    (
        "another rescale slope for each slice (PET)",
        lambda n, ds: tags(RescaleSlope=n + 1, RescaleIntercept=0)(n, ds),
        VOXELS * np.arange(1.0, 5),
    ),
    ("rescale slope alone", tags(RescaleSlope=2), 2.0 * VOXELS),
    ("rescale intercept and an empty slope", _empty_slope, VOXELS - 1000.0),
    ("a rescale slope of 0", tags(RescaleSlope=0, RescaleIntercept=0), None),
    ("modality LUT (a table)", _table, VOXELS + 900),
    ("unsigned stored values", _unsigned, VOXELS),
    ("12 signed bits of 16", _twelve_bits, VOXELS),
    ("12 bits of 16 with the highest at 15", tags(BitsStored=12), None),
    ("pixels as real numbers", _real_numbers, VOXELS / 2),
    ("bytes behind the pixels, with a note", lambda n, ds: setattr(ds, "PixelData", ds.PixelData + bytes(8)), VOXELS),
    ("more rows than the header states", lambda n, ds: setattr(ds, "Rows", 2), None),
    ("RLE", lambda n, ds: ds.compress(RLELossless), VOXELS),
    (
        "pixel padding value",
        tags(PixelPaddingValue=-900),
        np.where(VOXELS == -900, VOXELS[VOXELS > -900].min(), VOXELS),
    ),
    ("pixel padding value and range limit", PADDING, PADDED),
    ("pixel padding value written as unsigned", _unsigned_padding, np.where(VOXELS == -900, -899, VOXELS)),
    ("window center and width (not applied)", tags(WindowCenter=40, WindowWidth=400), VOXELS),
    ("real world value map beside a rescale slope", _both, 3.0 * VOXELS + 1),
    ("real world value map alone", tags(RealWorldValueMappingSequence=[Dataset()]), None),
    ("MONOCHROME1", tags(PhotometricInterpretation="MONOCHROME1"), None),
    ("palette color", tags(PhotometricInterpretation="PALETTE COLOR"), None),
    ("image type DERIVED, with a note", tags(ImageType=["DERIVED", "PRIMARY", "AXIAL"]), VOXELS),
    ("image type LOCALIZER", tags(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), None),
    ("image type MOSAIC (Siemens)", tags(ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"]), None),
    ("a mosaic by its private tag (Siemens)", _mosaic, None),
    ("text burned into the pixels, with a note", tags(BurnedInAnnotation="YES"), VOXELS),
    ("compressed with loss, with a note", tags(LossyImageCompression="01"), VOXELS),
    ("several frames in a file", _frames, None),
    ("slices without position", lambda n, ds: delattr(ds, "ImagePositionPatient"), None),
    ("slices at one position", tags(ImagePositionPatient=[0, 0, 0]), None),
    ("uneven distances", lambda n, ds: setattr(ds, "ImagePositionPatient", [0, 0, n * n]), None),
    ("a tilted gantry", lambda n, ds: setattr(ds, "ImagePositionPatient", [0, n, 2 * n]), VOXELS),
    ("slices of two series", lambda n, ds: setattr(ds, "SeriesInstanceUID", f"1.2.{n % 2}"), None),
    ("slices of two patients in one series", _half("PatientID", "a", "b"), None),
    ("slices of two studies in one series", _half("StudyInstanceUID", "1.2.4", "1.2.5"), None),
    ("slices of two frames of reference in one series", _half("FrameOfReferenceUID", "1.2.4", "1.2.5"), None),
    ("slices of two units in one series (PET)", _half("Units", "BQML", "CNTS"), None),
    ("slices of magnitude and phase in one series", _half("ImageType", [*"OPM"], [*"OPP"]), None),
    ("an orientation of axes that are not of length 1", tags(ImageOrientationPatient=[2, 0, 0, 0, 2, 0]), None),
    ("an orientation of three numbers", tags(ImageOrientationPatient=[1, 0, 0]), None),
    ("a file of a concatenation missing", _concatenated, None),
    ("first slices missing, by instance number", lambda n, ds: setattr(ds, "InstanceNumber", n + 3), None),
    ("last slices missing, by images in acquisition", tags(ImagesInAcquisition=6), None),
    ("last slices missing, by number of slices", tags(NumberOfSlices=6), None),
)
ENHANCED: tuple[tuple[str, Change, np.ndarray | None], ...] = (
    ("enhanced multi-frame CT", tags(), VOXELS),
    (
        "enhanced: another rescale slope for each frame",
        lambda n, ds: tags(RescaleSlope=n + 1, RescaleIntercept=n, RescaleType="HU")(n, ds),
        VOXELS * np.arange(1.0, 5) + np.arange(4),
    ),
    ("enhanced: pixel padding value and range limit", PADDING, PADDED),
    ("enhanced: a tilted gantry", lambda n, ds: setattr(ds, "ImagePositionPatient", [0, n, 2 * n]), VOXELS),
    (
        "enhanced: frames at one position (several times or echoes)",
        lambda n, ds: setattr(ds, "ImagePositionPatient", [0, 0, n // 2]),
        None,
    ),
    (
        "enhanced: uneven distances (a frame is missing)",
        lambda n, ds: setattr(ds, "ImagePositionPatient", [0, 0, n * n]),
        None,
    ),
)


def outcome(folder: Path, expected: np.ndarray | None) -> str:
    """Return the largest difference to the expected values (X, Y, Z), or the refusal without the path."""
    try:
        found = LoadScan()(folder).numpy()[0]
    except UserError as error:
        text = str(error).replace(str(folder), "").lstrip("/")
        return f"refused: {text.partition(', expected')[0].partition(': ')[2].partition(' (ValueError')[0]}"
    if expected is None:
        return "READ, but no value is known"
    return f"difference {np.abs(found - expected).max():g}"


def rows() -> Iterator[tuple[str, str]]:
    """Yield kind and outcome."""
    for name in FILES:
        path = pydicom.data.get_testdata_file(name, download=False)
        if path is None:
            continue
        header = pydicom.dcmread(path, force=True)
        try:
            expected = np.asarray(apply_modality_lut(header.pixel_array, header), float).T[..., None]
            padding = (header.pixel_array == header.get("PixelPaddingValue")).T[..., None]
            expected[padding] = expected[~padding].min()
        except Exception:  # no pixels, or none that pydicom decodes here
            expected = None
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, name).write_bytes(Path(path).read_bytes())
            yield f"pydicom's `{name}`", outcome(Path(folder), expected)
    for kind, change, expected in (*SERIES, *ENHANCED):
        with tempfile.TemporaryDirectory() as folder:
            write_series(Path(folder), change)
            if kind.startswith("enhanced"):
                to_enhanced(Path(folder))
            yield kind, outcome(Path(folder), expected)


def page() -> str:
    """Return the page with the table."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return INTRODUCTION + "".join(f"| {kind} | {result} |\n" for kind, result in rows())
    finally:
        logging.disable(logging.NOTSET)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"store the table as {PAGE.name}")
    arguments, text = parser.parse_args(), page()
    if arguments.write:
        PAGE.write_text(text, encoding="utf-8")
    print(text)
