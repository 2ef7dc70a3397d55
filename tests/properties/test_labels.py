"""Label values near whole numbers are rounded with a note, others refused by a number that is what the file holds."""

import logging
import re

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data import MetaTensor

from monai_pdddpm.data.checks import CheckLabeld
from monai_pdddpm.utils.errors import UserError

VALUES = [0, 1, 2, 4, 255]
OFFSETS = st.one_of(st.floats(-1e-3, 1e-3), st.sampled_from([-1e-3, 1e-3]), st.floats(-0.4, 0.4), st.just(0.0))


@given(st.lists(st.tuples(st.sampled_from([*VALUES, 3, 5, -1, 254]), OFFSETS), min_size=1, max_size=6))
def test_rounded_with_a_note_or_refused_by_value(voxels):
    stored = torch.tensor([[[[np.float32(value + offset) for value, offset in voxels]]]])
    label, image = (MetaTensor(x, affine=torch.eye(4)) for x in (stored.clone(), torch.zeros_like(stored)))
    logged = []
    handler = logging.Handler()
    handler.emit = lambda record: logged.append(record.getMessage())
    logging.getLogger("monai_pdddpm.data.checks").addHandler(handler)
    try:
        found = CheckLabeld("label", VALUES)({"image": image, "label": label})["label"]
    except UserError as error:
        named = re.search(r"label values ([^e]*), expected", str(error))
        numbers = [np.float32(text) for text in named[1].replace(", ...", "").split(", ")]
        held = set(stored.flatten().tolist()) | set(stored.round().flatten().tolist())
        assert all(float(number) in held for number in numbers)
        assert all(number not in VALUES for number in numbers)
        assert any(abs(offset) > 1e-3 or value not in VALUES for value, offset in voxels)
    else:
        assert found.unique().tolist() == sorted({float(value) for value, _ in voxels})
        assert bool(logged) == (not torch.equal(stored, stored.round()))
    finally:
        logging.getLogger("monai_pdddpm.data.checks").removeHandler(handler)
