import builtins
import itertools
import logging
import os

import numpy as np
import pydicom
import pytest
import torch
from highdicom.legacy import LegacyConvertedEnhancedCTImage
from highdicom.seg import segread
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, Orientationd, Spacingd
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from monai_pdddpm import __version__
from monai_pdddpm.data.dicom_seg import check_dicom_seg, segment_codes, write_dicom_seg
from monai_pdddpm.data.loading import LoadImageScand, LoadScan
from monai_pdddpm.handlers import CaseFiles
from monai_pdddpm.metrics.segmentation import class_names
from monai_pdddpm.utils.errors import UserError

LABELS = {"0": "background", "1": "Läsion", "2": "kidney"}
CODES = {
    "2": {"category": ["49755003", "SCT", "Morphologically Abnormal Structure"], "type": ["64033007", "SCT", "Kidney"]}
}
ROWS, COLUMNS, SLICES = 9, 7, 12
SPACING = (0.8, 0.5, 2.5)  # between rows, between columns, between slices
ORIGIN = np.array([-30.5, 12.25, 100.0])


def turned():
    """Rows, columns and normal of an oblique image, orthonormal."""
    (a, b), (c, d) = ((np.cos(angle), np.sin(angle)) for angle in (0.3, -0.5))
    turn = np.array([[a, -b, 0], [b, a, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -d], [0, d, c]])
    return turn[:, 0], turn[:, 1], turn[:, 2]


def position(column, row, plane):
    """World position (LPS, mm) of a pixel of the series, by the definition of the test."""
    along_row, along_column, normal = turned()
    return ORIGIN + along_row * SPACING[1] * column + along_column * SPACING[0] * row + normal * SPACING[2] * plane


def write_series(
    folder, planes=range(SLICES), without=(), series="1.2.826.0.1.3680043.8.498.1", moved=None, pixels=None
):
    """Write an oblique CT series; file names and instance numbers are not in the order of the slices."""
    folder.mkdir(parents=True, exist_ok=True)
    along_row, along_column, _ = turned()
    uids = {}
    for plane in planes:
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPInstanceUID = uids[plane] = generate_uid(entropy_srcs=[series, str(plane)])
        ds = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        ds.SpecificCharacterSet = "ISO_IR 100"
        ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, uids[plane]
        ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Müller^Jörg", "p1", "19700101", "M"
        ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.826.0.1.3680043.8.498.7", series
        ds.FrameOfReferenceUID = "1.2.826.0.1.3680043.8.498.9"
        ds.StudyDate, ds.StudyTime, ds.SeriesDate = "20260102", "101112", "20260102"
        ds.AccessionNumber, ds.StudyID, ds.ReferringPhysicianName = "a1", "s1", ""
        ds.Modality, ds.SeriesNumber, ds.InstanceNumber = "CT", 4, (7 * plane) % SLICES + 1
        place = position(0, 0, plane) + (moved[plane] if moved and plane in moved else 0)
        ds.ImagePositionPatient = [f"{value:.8f}" for value in place]
        ds.ImageOrientationPatient = [f"{value:.10f}" for value in (*along_row, *along_column)]
        ds.PixelSpacing, ds.SliceThickness = [SPACING[0], SPACING[1]], SPACING[2]
        ds.Rows, ds.Columns = ROWS, COLUMNS
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
        ds.RescaleIntercept, ds.RescaleSlope = 0, 1
        grey = np.full((ROWS, COLUMNS), 100 * plane) if pixels is None else pixels(plane)
        ds.PixelData = grey.astype(np.uint16).tobytes()
        for name in without:
            delattr(ds, name)
        ds.save_as(folder / f"{(5 * plane) % SLICES:02d}.dcm", enforce_file_format=True)
    return uids


def affine_ras():
    columns = [position(*step) - ORIGIN for step in np.eye(3)]
    affine = np.eye(4)
    affine[:3] = np.column_stack([*columns, ORIGIN])
    return np.diag([-1, -1, 1, 1]) @ affine


# (column, row, plane) of each label: no mirror or turn of the grid brings the marks onto themselves
MARKS = {1: [(1, 2, 3), (2, 2, 3), (1, 3, 3), (1, 2, 4)], 2: [(5, 8, 11), (5, 7, 11), (6, 8, 10), (0, 0, 0)]}


def segmentation(folder, affine=None, marks=MARKS, values=None):
    seg = torch.zeros(1, COLUMNS, ROWS, SLICES, dtype=torch.uint8)
    for label, places in marks.items():
        for place in places:
            seg[(0, *place)] = values[label] if values else label
    return MetaTensor(
        seg, affine=affine_ras() if affine is None else affine, meta={"filename_or_obj": str(folder)} if folder else {}
    )


def write(tmp_path, seg, labels=LABELS, dicom_codes=None):
    """Write a label map to the folder ``out``, for the series that its metadata name."""
    names, out = class_names(labels), tmp_path / "out"
    out.mkdir(exist_ok=True)
    source = seg.meta.get("filename_or_obj", "")
    write_dicom_seg(out / "ct_seg.dcm", seg, source, names, segment_codes(names, dicom_codes))


def saved(tmp_path, seg, labels=LABELS, dicom_codes=CODES):
    write(tmp_path, seg, labels, dicom_codes)
    assert os.listdir(tmp_path / "out") == ["ct_seg.dcm"]
    return tmp_path / "out" / "ct_seg.dcm"


def world_positions(ds):
    """World position (LPS, mm) of every pixel that is set, by segment; read with pydicom alone."""
    shared = ds.SharedFunctionalGroupsSequence[0]
    orientation = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=float)
    between_rows, between_columns = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    found = {}
    pixels = ds.pixel_array.reshape(-1, ds.Rows, ds.Columns)
    for frame, group in zip(pixels, ds.PerFrameFunctionalGroupsSequence, strict=True):
        groups = group if "SegmentIdentificationSequence" in group else shared
        segment = groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        corner = np.array(group.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        for row, column in np.argwhere(frame):
            place = corner + orientation[:3] * between_columns * column + orientation[3:] * between_rows * row
            found.setdefault(segment, []).append(place)
    return {segment: np.array(sorted(map(tuple, places))) for segment, places in found.items()}


def expected_positions(marks=MARKS):
    return {label: np.array(sorted(tuple(position(*place)) for place in places)) for label, places in marks.items()}


def require_same_places(found, expected):
    assert found.keys() == expected.keys()
    for segment, places in expected.items():
        np.testing.assert_allclose(found[segment], places, atol=1e-4)


def test_marked_voxels_lie_where_they_lay(tmp_path):
    uids = write_series(tmp_path / "ct")
    ds = pydicom.dcmread(saved(tmp_path, segmentation(tmp_path / "ct")))
    require_same_places(world_positions(ds), expected_positions())
    assert (ds.SegmentationType, ds.ContentLabel) == ("BINARY", "SEGMENTATION")
    assert len(ds.PerFrameFunctionalGroupsSequence) == 5  # planes 3 and 4, and 0, 10 and 11
    corner = {plane: position(0, 0, plane) for plane in range(SLICES)}
    for group in ds.PerFrameFunctionalGroupsSequence:
        place = np.array(group.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        plane = next(plane for plane in corner if np.allclose(corner[plane], place, atol=1e-4))
        references = group.DerivationImageSequence[0].SourceImageSequence
        assert [item.ReferencedSOPInstanceUID for item in references] == [uids[plane]]


def test_frames_of_an_enhanced_file_are_referenced(tmp_path):
    write_series(tmp_path / "classic")
    slices = [pydicom.dcmread(tmp_path / "classic" / f"{number:02d}.dcm") for number in range(SLICES)]
    for ds in slices:
        ds.Manufacturer, ds.PositionReferenceIndicator, ds.ImageType = "x", "", ["ORIGINAL", "PRIMARY", "AXIAL"]
        ds.RescaleType = "HU"
    one = LegacyConvertedEnhancedCTImage(slices, generate_uid(), 5, generate_uid(), 1)
    (tmp_path / "ct").mkdir()
    one.save_as(tmp_path / "ct" / "one.dcm")
    assert np.array_equal(LoadScan()(tmp_path / "ct"), LoadScan()(tmp_path / "classic"))
    ds = pydicom.dcmread(saved(tmp_path, segmentation(tmp_path / "ct")))
    require_same_places(world_positions(ds), expected_positions())
    place_of = [group.PlanePositionSequence[0].ImagePositionPatient for group in one.PerFrameFunctionalGroupsSequence]
    for group in ds.PerFrameFunctionalGroupsSequence:
        (item,) = group.DerivationImageSequence[0].SourceImageSequence
        assert item.ReferencedSOPInstanceUID == one.SOPInstanceUID
        here = group.PlanePositionSequence[0].ImagePositionPatient
        np.testing.assert_allclose(place_of[int(item.ReferencedFrameNumber) - 1], here, atol=1e-4)


def test_as_highdicom_reads_it(tmp_path):
    uids = write_series(tmp_path / "ct")
    seg = segread(saved(tmp_path, segmentation(tmp_path / "ct")))
    assert seg.number_of_segments == 2
    volume = seg.get_volume(combine_segments=True)
    corners = [volume.map_reference_to_indices(position(*place)[None]) for place in MARKS[2]]
    assert [volume.array[tuple(np.rint(corner[0]).astype(int))] for corner in corners] == [2] * 4
    lesion, kidney = (seg.get_segment_description(number) for number in (1, 2))
    assert (lesion.segment_label, kidney.segment_label) == ("Läsion", "kidney")
    assert lesion.segmented_property_category.value == "123037004"
    assert lesion.segmented_property_type.meaning == "Tissue"
    assert kidney.segmented_property_category.meaning == "Morphologically Abnormal Structure"
    assert (kidney.segmented_property_type.value, kidney.segmented_property_type.scheme_designator) == (
        "64033007",
        "SCT",
    )
    assert kidney.algorithm_type.value == "AUTOMATIC"
    identification = kidney.algorithm_identification[0]
    assert (identification.AlgorithmName, identification.AlgorithmVersion) == ("monai_pdddpm", __version__)
    assert (str(seg.PatientName), seg.PatientID, seg.StudyInstanceUID[-2:]) == ("Müller^Jörg", "p1", ".7")
    assert seg.FrameOfReferenceUID == "1.2.826.0.1.3680043.8.498.9"
    assert seg.SeriesInstanceUID not in ("1.2.826.0.1.3680043.8.498.1", "")
    referenced = seg.ReferencedSeriesSequence[0]
    assert referenced.SeriesInstanceUID == "1.2.826.0.1.3680043.8.498.1"
    assert {item.ReferencedSOPInstanceUID for item in referenced.ReferencedInstanceSequence} == set(uids.values())


@pytest.mark.parametrize("axes", itertools.permutations(range(3)))
@pytest.mark.parametrize("flipped", [(), (0,), (0, 2), (0, 1, 2)])
def test_any_order_and_direction_of_the_axes(tmp_path, axes, flipped):
    write_series(tmp_path / "ct")
    seg, affine = segmentation(None).as_tensor()[0].permute(axes), affine_ras()
    affine[:, :3] = affine[:, list(axes)]
    for axis in flipped:
        affine[:, 3] += affine[:, axis] * (seg.shape[axis] - 1)
        affine[:, axis] *= -1
    turned_seg = MetaTensor(seg.flip(flipped)[None], affine=affine, meta={"filename_or_obj": str(tmp_path / "ct")})
    ds = pydicom.dcmread(saved(tmp_path, turned_seg))
    require_same_places(world_positions(ds), expected_positions())


def test_an_empty_segment_and_an_empty_answer(tmp_path):
    write_series(tmp_path / "ct")
    ds = pydicom.dcmread(saved(tmp_path, segmentation(tmp_path / "ct", marks={2: MARKS[2]})))
    require_same_places(world_positions(ds), expected_positions({2: MARKS[2]}))
    assert [item.SegmentLabel for item in ds.SegmentSequence] == ["Läsion", "kidney"]
    path = saved(tmp_path, segmentation(tmp_path / "ct", marks={}))
    ds = pydicom.dcmread(path)
    assert world_positions(ds) == {}
    assert len(ds.SegmentSequence) == 2
    assert not segread(path).get_volume(combine_segments=True).array.any()


def test_one_label_with_a_number_of_its_own(tmp_path):
    write_series(tmp_path / "ct")
    seg = segmentation(tmp_path / "ct", marks={1: MARKS[1]}, values={1: 3})
    ds = pydicom.dcmread(saved(tmp_path, seg.float(), labels={"3": "cyst"}, dicom_codes=None))
    require_same_places(world_positions(ds), expected_positions({1: MARKS[1]}))
    assert (ds.SegmentSequence[0].SegmentNumber, ds.SegmentSequence[0].SegmentLabel) == (1, "cyst")


def test_a_series_made_anonymous_and_one_without_thickness(tmp_path):
    write_series(
        tmp_path / "ct",
        without=[
            *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime"),
            *("AccessionNumber", "StudyID", "ReferringPhysicianName", "SeriesNumber", "SliceThickness"),
        ],
    )
    ds = pydicom.dcmread(saved(tmp_path, segmentation(tmp_path / "ct")))
    require_same_places(world_positions(ds), expected_positions())
    assert not ds.PatientID
    assert ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness == SPACING[2]


def test_behind_the_inverse_of_the_preprocessing(tmp_path):
    write_series(tmp_path / "ct")
    preprocessing = Compose(
        [LoadImageScand("image"), Orientationd("image", "RAS", labels=None), Spacingd("image", 1.0)]
    )
    data = preprocessing({"image": str(tmp_path / "ct")})
    assert data["image"].shape != (1, COLUMNS, ROWS, SLICES)
    bright = (data["image"] - 100 * 5).sigmoid()  # planes from 6 on, which have 100 times their number
    data["pred"] = MetaTensor(torch.cat([1 - bright, bright]).as_tensor(), meta=data["image"].meta)
    data = Invertd("pred", preprocessing, orig_keys="image", nearest_interp=False, to_tensor=True)(data)
    data["seg"] = data["pred"].argmax(dim=0, keepdim=True)
    found = world_positions(pydicom.dcmread(saved(tmp_path, data["seg"], {"1": "bright"}, None)))[1]
    heights = (found - ORIGIN) @ turned()[2] / SPACING[2]
    assert len(found) == data["seg"].sum()
    assert heights.min() == pytest.approx(6, abs=1e-3)
    assert (np.rint(heights) == 8).sum() == ROWS * COLUMNS


def test_a_tilted_gantry(tmp_path):
    shift = turned()[1] * 1.25  # mm a slice, 27 degrees
    write_series(tmp_path / "ct", moved={plane: plane * shift for plane in range(SLICES)})
    affine = affine_ras()
    affine[:3, 2] += np.diag([-1, -1, 1]) @ shift
    ds = pydicom.dcmread(saved(tmp_path, segmentation(tmp_path / "ct", affine)))
    expected = {
        label: np.array(sorted(tuple(position(*place) + place[2] * shift) for place in places))
        for label, places in MARKS.items()
    }
    require_same_places(world_positions(ds), expected)


@pytest.mark.parametrize("source", ["scan.nii.gz", "gone", ""])
def test_other_cases_get_a_line_and_no_file(tmp_path, caplog, source):
    write_series(tmp_path)  # beside the file, which is none of the series
    (tmp_path / "scan.nii.gz").write_bytes(b"not DICOM")
    with caplog.at_level(logging.WARNING):
        write(tmp_path, segmentation(source and tmp_path / source))
    assert "no DICOM SEG written" in caplog.records[0].getMessage()
    assert len(caplog.records) == 1
    assert "\n" not in caplog.records[0].getMessage()
    assert not os.listdir(tmp_path / "out")


def refused(tmp_path, seg, message):
    with pytest.raises(UserError, match=message) as caught:
        write(tmp_path, seg)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "out").rglob("*"))


def test_another_place_is_refused_from_a_tenth_of_a_voxel_on(tmp_path):
    write_series(tmp_path / "ct")
    off = affine_ras()
    off[:3, 3] += 0.2 * off[:3, 2]
    refused(tmp_path, segmentation(tmp_path / "ct", off), r"ct: its DICOM slices lie up to 0\.2 voxels beside")
    off[:3, 3] -= 0.15 * off[:3, 2]
    saved(tmp_path, segmentation(tmp_path / "ct", off))


@pytest.mark.parametrize("change", ["whole voxel", "finer", "other voxel size"])
def test_another_grid_is_refused(tmp_path, change):
    write_series(tmp_path / "ct")
    affine = affine_ras()
    if change == "whole voxel":
        affine[:3, 3] += affine[:3, 2]
    else:
        affine[:3, 0] *= 0.5 if change == "finer" else 1.1
    refused(tmp_path, segmentation(tmp_path / "ct", affine), "ct: its DICOM slices lie up to .* voxels beside")


def test_another_shape_is_refused(tmp_path):
    write_series(tmp_path / "ct")
    seg = segmentation(tmp_path / "ct")
    cut = MetaTensor(seg.as_tensor()[..., :-1, :], affine=seg.affine, meta={"filename_or_obj": str(tmp_path / "ct")})
    refused(tmp_path, cut, "found 12 DICOM slices of 9 x 7 pixels, expected 12 of 8 x 7 as")


def test_a_single_slice(tmp_path):
    write_series(tmp_path / "ct", planes=[0])
    seg = segmentation(None, marks={1: [(0, 0, 0), (4, 8, 0)]}).as_tensor()[..., :1]
    seg = MetaTensor(seg, affine=affine_ras(), meta={"filename_or_obj": str(tmp_path / "ct")})
    ds = pydicom.dcmread(saved(tmp_path, seg))
    require_same_places(world_positions(ds), expected_positions({1: [(0, 0, 0), (4, 8, 0)]}))


def test_what_is_not_the_series_that_was_read_is_refused(tmp_path):
    write_series(tmp_path / "short", planes=range(11))
    refused(tmp_path, segmentation(tmp_path / "short"), "short: found no slices between the instance numbers")
    write_series(tmp_path / "gap", planes=[*range(5), *range(6, 12)])
    refused(tmp_path, segmentation(tmp_path / "gap"), "gap: slices are not evenly spaced")
    write_series(tmp_path / "double", moved={5: turned()[2] * SPACING[2]})
    refused(tmp_path, segmentation(tmp_path / "double"), "double: found 12 slices at 11 places")
    write_series(tmp_path / "two", planes=range(6))
    write_series(tmp_path / "two", planes=range(6, 12), series="1.2.3")
    refused(tmp_path, segmentation(tmp_path / "two"), "two: found 2 DICOM series")


def test_a_series_without_frame_of_reference_is_refused(tmp_path):
    write_series(tmp_path / "ct", without=["FrameOfReferenceUID"])
    refused(tmp_path, segmentation(tmp_path / "ct"), "highdicom cannot make a SEG of this series.*fix its headers")


def test_values_that_are_no_label_are_refused(tmp_path):
    write_series(tmp_path / "ct")
    seg = segmentation(tmp_path / "ct")
    seg[0, 0, 0, 5] = 3
    refused(tmp_path, seg, r"its segmentation holds other values than 0 and those of labels \(1, 2\)")


def test_a_second_file_is_a_new_instance_of_the_same_content(tmp_path):
    write_series(tmp_path / "ct")
    first, second = (pydicom.dcmread(saved(tmp_path, segmentation(tmp_path / "ct"))) for _ in range(2))
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert first.PixelData == second.PixelData


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dicom_codes": {"3": {}}}, r"dicom_codes: found '3', expected numbers of labels \(1, 2\)"),
        ({"dicom_codes": {"0": {}}}, "dicom_codes: found '0'"),
        ({"dicom_codes": {"1": {"kind": ["1", "SCT", "a"]}}}, "label 1, expected 'category' and 'type'"),
        ({"dicom_codes": {"1": ["1", "SCT", "a"]}}, "label 1, expected 'category' and 'type'"),
        ({"dicom_codes": {"1": {"type": ["1", "SCT"]}}}, r"as type of label 1, expected \[value, scheme, meaning\]"),
        ({"dicom_codes": {"1": {"type": [1, "SCT", "a"]}}}, "as type of label 1"),
        ({"dicom_codes": {"1": {"category": ["1", "SCT", "a" * 65]}}}, "as category of label 1"),
        ({"dicom_codes": {"1": {"category": ["1", "S" * 17, "a"]}}}, "as category of label 1"),
        ({"labels": {"1": "a" * 65}}, "labels: found 'a{65}' for label 1, expected 1 to 64"),
        ({"labels": {"one": "a"}}, "labels: found {'one': 'a'}"),
    ],
)
def test_labels_and_codes_are_checked_before_the_run(options, message):
    with pytest.raises(UserError, match=message):
        CaseFiles("out", **({"labels": LABELS, "record": {}, "outputs": "dicom-seg"} | options))


def test_codes_by_number_or_text():
    category = ("49755003", "SCT", "Morphologically Abnormal Structure")
    for key in (1, "1"):
        found = segment_codes({1: "a", 2: "b"}, {key: {"category": list(category)}})
        assert found[1] == {"category": category, "type": ("85756007", "SCT", "Tissue")}
        assert found[2]["category"] == ("123037004", "SCT", "Anatomical Structure")


def test_a_missing_package_is_reported_before_the_run(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] in ("highdicom", "pydicom"):
            raise ImportError(f"No module named {name!r}")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"No module named 'pydicom'.*; pip install highdicom pydicom$"):
        check_dicom_seg({1: "a"})
    CaseFiles("out", LABELS, {})
