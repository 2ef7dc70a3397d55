import pytest

from monai_pdddpm.data.loading import LoadScan
from monai_pdddpm.data.scan_spec import ScanSpec
from monai_pdddpm.utils.errors import UserError


def test_defaults_are_one_volume_of_three_axes():
    spec = ScanSpec()
    assert (spec.channels, spec.spatial_dims, spec.has_frames, spec.missing) == (1, 3, False, "error")
    assert ScanSpec(fourth_dimension="time", channels=None).has_frames


def test_channels_are_named_in_messages():
    spec = ScanSpec(channels=2, channel_names={"0": "FLAIR"})
    assert [spec.channel_label(index) for index in (0, 1)] == ["channel 0 (FLAIR)", "channel 1"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fourth_dimension": "frames"}, "fourth_dimension: found 'frames', expected 'channel' or 'time'"),
        ({"fourth_dimension": "time", "channels": 2}, "fourth_dimension: found 'time' with 2 channels"),
        ({"missing": "skip"}, "missing_channels: found 'skip', expected 'error' or 'zero'"),
        ({"channels": 0}, "channels: found 0, expected a whole number of at least 1"),
        ({"spatial_dims": "3"}, "spatial_dims: found '3', expected a whole number from 2 to 3"),
    ],
)
def test_values_that_are_not_allowed(options, message):
    for make in (ScanSpec, LoadScan):
        with pytest.raises(UserError, match=message):
            make(**options)


def test_transform_takes_an_object_and_fields():
    assert LoadScan(ScanSpec(channels=4)).spec == LoadScan(channels=4).spec
    assert LoadScan(ScanSpec(missing="zero"), channels=4).spec == ScanSpec(channels=4, missing="zero")
