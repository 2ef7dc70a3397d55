"""Whatever the tags of a series state, its voxels are the values by the standard, or one line refuses the series."""

import runpy
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from monai_pdddpm.data import LoadScan
from monai_pdddpm.utils.errors import UserError

TOOL = runpy.run_path(str(Path(__file__).parents[2] / "tools" / "reliability" / "dicom.py"))


def loaded(folder):
    """Return a scan, or the line that refuses it."""
    try:
        return LoadScan()(folder)
    except UserError as error:
        return str(error) if "\n" not in str(error) else None


@st.composite
def stored(draw):
    """Bits, whether they are signed, and values that fit, (4, 3, 3)."""
    bits, signed = draw(st.integers(8, 16)), draw(st.booleans())
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return bits, signed, rng.integers(low, high + 1, (4, 3, 3))


@given(
    stored(),
    st.lists(
        st.tuples(st.sampled_from([None, 1, 0.5, -2, 0]), st.none() | st.integers(-2000, 2000)), min_size=3, max_size=3
    ),
    st.booleans(),
    st.sampled_from([None, "value", "range"]),
)
def test_stored_values_rescale_and_padding(values, rescale, rescaled, padding):
    bits, signed, array = values
    low, high = int(array.min()), int(np.median(array))

    def change(number, ds):
        ds.BitsStored, ds.HighBit, ds.PixelRepresentation = bits, bits - 1, int(signed)
        kept = array[:, :, number].T & ((1 << bits) - 1)  # the upper bits are not part of the value
        ds.PixelData = np.ascontiguousarray(kept).astype("<u2").tobytes()
        if rescaled:
            ds.RescaleSlope, ds.RescaleIntercept = rescale[number]  # empty where None
        if padding:
            ds.add_new("PixelPaddingValue", "SS" if signed else "US", low)
        if padding == "range":
            ds.add_new("PixelPaddingRangeLimit", "SS" if signed else "US", high)

    given = [(1 if a is None else a, b or 0) for a, b in rescale] if rescaled else [(1, 0)] * 3
    slope, intercept = np.array(given, dtype=float).T
    expected = array * slope + intercept
    if padding:
        padded = (array >= low) & (array <= (high if padding == "range" else low))
        if not padded.all():
            expected[padded] = expected[~padded].min()
    with tempfile.TemporaryDirectory() as folder:
        TOOL["write_series"](Path(folder), change, array.astype(np.int32))
        image = loaded(folder)
    if isinstance(image, str):
        assert rescaled
        assert 0 in slope
    else:
        assert np.array_equal(image.numpy()[0], expected.astype(np.float32))


@given(
    st.permutations(range(4)),
    st.lists(st.integers(0, 3), min_size=0, max_size=2, unique=True),
    st.integers(-200, 200),
    st.sampled_from([0.7, 2.0, 5.0]),
)
def test_slices_in_any_order_and_missing_ones(order, missing, origin, distance):
    array = np.random.default_rng(0).integers(-900, 900, (4, 3, 4))
    kept = [index for index in range(4) if index not in missing]

    def change(number, ds):
        index = kept[number]
        ds.InstanceNumber = index + 1
        ds.ImagePositionPatient = [0, 0, origin + distance * index]
        ds.PixelData = np.ascontiguousarray(array[:, :, index].T).astype("<i2").tobytes()

    with tempfile.TemporaryDirectory() as folder:
        TOOL["write_series"](Path(folder), change, array[:, :, kept])
        files = sorted(Path(folder).iterdir())
        for name, file in zip(order, files, strict=False):
            file.rename(Path(folder) / f"slice{name}")
        complete_at_the_begin = kept == list(range(len(kept)))  # nothing tells of slices missing at the end
        later_part = len(kept) > 1 and np.diff(kept).max() == np.diff(kept).min() and kept[0] % len(kept) == 0
        image = loaded(folder)
    if isinstance(image, str):
        assert not complete_at_the_begin
    else:
        assert complete_at_the_begin or later_part or image.meta["case"].notes or len(kept) < 3
        assert np.array_equal(image.numpy()[0], array[:, :, kept])
        assert np.allclose(image.affine[:3, 3], [0, 0, origin + distance * kept[0]])
