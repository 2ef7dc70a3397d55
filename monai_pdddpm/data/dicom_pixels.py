"""The voxels of a DICOM series."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from monai.data import ImageReader

from monai_pdddpm.data.dicom import Series
from monai_pdddpm.utils.errors import UserError

if TYPE_CHECKING:
    from pydicom import Dataset


class SeriesReader(ImageReader):
    """MONAI reader of one series, which reads voxels as float32.

    The modality transform of each slice is applied (rescale slope and intercept, or a table), and padding is replaced
    by the smallest of the other values.

    Args:
        series: the series to read.
    """

    def __init__(self, series: Series) -> None:
        self.series = series
        self.notes: tuple[str, ...] = ()  # remarks on the values, after `get_data`

    def verify_suffix(self, filename: Any) -> bool:
        """Return true: the series was found by its content."""
        return True

    def read(self, data: Any, **kwargs: Any) -> Series:
        """Return the series."""
        return self.series

    def get_data(self, img: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the voxels, (columns, rows, slices), and their metadata."""
        from pydicom import dcmread

        voxels = np.empty(self.series.shape, np.float32)
        padding = np.zeros(self.series.shape, bool)
        path, content, spare = "", None, 0
        for index, (file, frame) in enumerate(zip(self.series.files, self.series.frames, strict=True)):
            if file != path:
                path, content = file, dcmread(file, force=True)  # it keeps the pixels of all frames once decoded
                spare = max(spare, _prepare(content, file))
            values, padded = _pixels(content, self.series.headers[index], file, frame)
            voxels[:, :, index], padding[:, :, index] = values.T, padded.T
        self.notes = (f"up to {spare} bytes of a file beyond its pixels were ignored",) if spare else ()
        if padding.any() and not padding.all():
            voxels[padding] = voxels[~padding].min()
            self.notes += (
                f"{padding.mean():.1%} of its voxels are padding (DICOM tag 0028,0120): they got the smallest value of "
                "the others",
            )
        affine = self.series.affine
        meta = {"affine": affine.copy(), "original_affine": affine.copy(), "space": "RAS"}
        return voxels, meta | {"spatial_shape": np.array(voxels.shape), "original_channel_dim": float("nan")}


def _prepare(content: Any, file: str) -> int:
    """Complete the metadata of a DICOM file, and return the bytes of its pixel data that its header does not describe.

    Raises:
        UserError: when they are a frame or more.
    """
    from pydicom.pixels.utils import get_expected_length
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if "TransferSyntaxUID" not in content.file_meta:  # files without preamble may lack it
        implicit, little = content.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        content.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    if content.file_meta.TransferSyntaxUID.is_encapsulated or "PixelData" not in content:
        return 0
    expected = get_expected_length(content)
    spare = len(content.PixelData) - expected - expected % 2
    if spare * int(content.get("NumberOfFrames") or 1) >= expected:
        raise UserError(
            f"{file}: found pixel data of {len(content.PixelData)} bytes, expected {expected} as its header describes; "
            "export the series again"
        )
    return max(spare, 0)


def _pixels(content: Any, header: Dataset, file: str, frame: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of a slice, (rows, columns), and which of them are padding."""
    from pydicom.pixels import apply_modality_lut, get_decoder

    syntax = content.file_meta.TransferSyntaxUID
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        decoder = None
    if decoder is not None and decoder.is_available:
        stored = content.pixel_array.reshape(-1, header.Rows, header.Columns)[frame]
        return np.asarray(apply_modality_lut(stored, header)), _is_padding(header, stored)
    if "PerFrameFunctionalGroupsSequence" in content:  # ITK has one rescale slope for all frames
        raise UserError(
            f"{file}: found frames compressed as {syntax.name}, which pydicom cannot decode, expected another form; "
            "convert it to NIfTI, for example with dcm2niix"
        )
    import itk

    # ITK's GDCM decodes compressed slices that need another package in pydicom, and rescales them
    values = itk.array_from_image(itk.imread(file, itk.F)).reshape(header.Rows, header.Columns)
    slope, intercept = float(header.get("RescaleSlope", 1)), float(header.get("RescaleIntercept", 0))
    return values, _is_padding(header, np.rint((values - intercept) / slope))


def _is_padding(header: Dataset, stored: np.ndarray) -> np.ndarray:
    """Return which stored values are padding: one value, or a range of them."""
    if header.get("PixelPaddingValue") is None:
        return np.zeros(stored.shape, bool)
    bits = int(header.BitsStored)
    limits = [int(header.PixelPaddingValue), int(header.get("PixelPaddingRangeLimit", header.PixelPaddingValue))]
    if header.PixelRepresentation == 1:  # some writers store the bits of a negative number as an unsigned one
        limits = [limit - (1 << bits) if limit >= 1 << (bits - 1) else limit for limit in limits]
    return (stored >= min(limits)) & (stored <= max(limits))
