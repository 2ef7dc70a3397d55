import numpy as np
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

UID = "1.2.826.0.1.3680043.8.498.7"


@pytest.fixture
def write_series():
    """Write an array (X, Y, Z) of int16 as a DICOM series, one file a slice, with names in another order.

    ``affine`` is (4, 4) and LPS, as in DICOM; ``fold`` lists slices to leave out; ``change`` gets the index and the
    data set of a slice before it is written. Returns the files in the order of the slices.
    """

    def write(
        folder,
        array,
        affine,
        uid=f"{UID}.1",
        names="IM{:04}",
        fold=(),
        thickness=None,
        change=lambda index, slice: None,
    ):
        folder.mkdir(parents=True, exist_ok=True)
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        axes = affine[:3, :2] / spacing[:2]
        files = []
        for number in range(array.shape[2]):
            if number in fold:
                continue
            meta = FileMetaDataset()
            meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, f"{uid}.{number + 1}"
            meta.TransferSyntaxUID, meta.ImplementationClassUID = ExplicitVRLittleEndian, "1.2.3.4"
            ds = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
            ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = CTImageStorage, f"{uid}.{number + 1}", "CT"
            ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.InstanceNumber = f"{UID}.100", uid, number + 1
            ds.ImagePositionPatient = [f"{value:.9f}" for value in (affine @ (0, 0, number, 1))[:3]]
            ds.ImageOrientationPatient = [f"{value:.12f}" for value in axes.T.ravel()]
            ds.PixelSpacing = [f"{value:.9f}" for value in spacing[[1, 0]]]
            ds.SliceThickness = float(thickness or spacing[2])
            ds.Columns, ds.Rows = array.shape[:2]
            ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 1
            ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
            ds.PixelData = np.ascontiguousarray(array[:, :, number].T).astype("<i2").tobytes()
            change(number, ds)
            files.append(folder / names.format(number * 37 % 101))
            ds.save_as(files[-1], enforce_file_format=True)
        return files

    return write
