import itk
import numpy as np
import pytest

UID = "1.2.826.0.1.3680043.8.498.7"
SLOPE = b"\x28\x00\x53\x10\x02\x00\x00\x00"  # tag and length of the rescale slope


@pytest.fixture
def write_series():
    """Write an array (X, Y, Z) of int16 as a DICOM series, one file a slice, with names in another order.

    ``affine`` is (4, 4) and LPS, as DICOM has it; ``slopes`` are texts of two letters. Returns the files in the order
    of the slices.
    """

    def write(folder, array, affine, uid=f"{UID}.1", names="IM{:04}", fold=(), slopes=None, thickness=None):
        folder.mkdir(parents=True, exist_ok=True)
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        axes = affine[:3, :2] / spacing[:2]
        direction = np.c_[axes, np.cross(axes[:, 0], axes[:, 1])]
        files = []
        for number in range(array.shape[2]):
            if number in fold:
                continue
            image = itk.image_from_array(np.ascontiguousarray(array[:, :, number].T)[None])
            image.SetSpacing((float(spacing[0]), float(spacing[1]), float(thickness or spacing[2])))
            image.SetOrigin([float(value) for value in (affine @ (0, 0, number, 1))[:3]])
            image.SetDirection(itk.matrix_from_array(direction))
            tags = image.GetMetaDataDictionary()
            tags["0008|0060"] = "CT"
            tags["0020|000d"] = f"{UID}.100"
            tags["0020|000e"] = uid
            tags["0008|0018"] = f"{uid}.{number + 1}"
            tags["0020|0013"] = str(number + 1)
            tags["0018|0050"] = str(float(thickness or spacing[2]))
            image.SetMetaDataDictionary(tags)
            io = itk.GDCMImageIO.New(KeepOriginalUID=True)
            files.append(folder / names.format(number * 37 % 101))
            part = folder / "part.dcm"  # ITK writes DICOM under this suffix only
            itk.imwrite(image, str(part), imageio=io)
            content = part.read_bytes()
            if slopes is not None:  # ITK writes whole slopes only
                assert SLOPE + b"1 " in content
                content = content.replace(SLOPE + b"1 ", SLOPE + slopes[number].encode())
            files[-1].write_bytes(content)
            part.unlink()
        return files

    return write
