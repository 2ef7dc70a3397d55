import json

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import SaveImage

from monai_pdddpm.data import LabelValueWriter

LABELS = {"0": "background", "1": "a", "2": "b"}


@pytest.mark.parametrize("kind", [torch.uint8, torch.int64])
def test_label_maps_get_their_values(tmp_path, kind):
    def writer(*args, **kwargs):
        return LabelValueWriter(*args, **kwargs, labels=LABELS, values=[0, 2, 500])

    save = SaveImage(
        tmp_path, "seg", ".nii.gz", output_dtype=None, resample=False, writer=writer, separate_folder=False
    )
    seg = MetaTensor(torch.tensor([0, 1, 2, 1], dtype=kind).reshape(1, 2, 2, 1), meta={"filename_or_obj": "x.nii.gz"})
    save(seg)
    image = nib.load(tmp_path / "x_seg.nii.gz")
    assert np.asanyarray(image.dataobj).ravel().tolist() == [0, 2, 500, 2]
    content = json.loads(image.header.extensions[0].get_content())
    assert content == {"labels": {"0": "background", "2": "a", "500": "b"}}


def test_other_maps_stay(tmp_path):
    writer = LabelValueWriter(values=[0, 7])
    writer.set_data_array(torch.tensor([0.0, 1.0]).reshape(1, 2, 1, 1))
    assert writer.data_obj.ravel().tolist() == [0, 1]
