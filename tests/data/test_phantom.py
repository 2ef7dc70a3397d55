import hashlib
import json

import nibabel as nib
import numpy as np
import pytest

from monai_pdddpm.data import phantom as module
from monai_pdddpm.data.phantom import (
    BEAT,
    Phantom,
    ambiguity_width,
    beat_scale,
    class_probability,
    ellipsoid_distance,
    ensure_phantom,
    main,
    make_phantom_scan,
    make_phantom_series,
    phantom_affine,
    smooth_field,
    smoothing_matrix,
    write_phantom,
)

TINY = {"size": (12, 14, 10), "spacing": (3.0, 3.0, 3.5)}
FEW = {"train": 2, "validation": 1, "test": 1, "series": 1, "readings": 3, "progress": False, **TINY}


def digests(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_phantom(tmp_path_factory.mktemp("phantom") / "data", **FEW)


def test_frequency_of_readings_is_the_probability():
    scan, rng, n = make_phantom_scan(**TINY, seed=3), np.random.default_rng(0), 2000
    count = np.zeros(scan.probability.shape)
    for _ in range(n):
        reading = scan.draw_reading(rng)
        count += np.stack([reading == k for k in range(3)])
    p = scan.probability.astype(float)
    sd = np.sqrt(p * (1 - p) / n)
    assert (np.abs(count / n - p) < 5 * sd + 5 / n).all()
    # unbiased as a whole too: the mean squared z score of undecided voxels is 1
    undecided = (p > 0.05) & (p < 0.95)
    assert undecided.sum() > 300
    assert np.mean(((count / n - p)[undecided] / sd[undecided]) ** 2) == pytest.approx(1, abs=0.25)


def test_smooth_field_has_unit_variance_at_every_voxel_and_the_stated_correlation():
    for n, spacing, length in [(48, 1.0, 4.0), (5, 3.5, 4.0), (40, 1.0, 25.0)]:
        assert (smoothing_matrix(n, spacing, length) ** 2).sum(1) == pytest.approx(np.ones(n), abs=1e-5)
    rng, n = np.random.default_rng(1), 4000
    fields = np.stack([smooth_field((17, 6, 5), (1.0, 2.0, 1.5), 4.0, rng) for _ in range(n)])
    assert fields.dtype == np.float32
    assert np.abs(fields.mean(0)).max() < 5 / np.sqrt(n)
    assert np.abs(fields.var(0) - 1).max() < 5 * np.sqrt(2 / n)
    # 4 mm apart, far from the borders: exp(-1/2)
    assert np.mean(fields[:, 6] * fields[:, 10]) == pytest.approx(np.exp(-0.5), abs=0.03)


def test_ellipsoid_distance_of_a_sphere_is_exact_and_of_an_ellipsoid_zero_on_its_surface():
    line = np.zeros((3, 5, 1, 1))
    line[0, :, 0, 0] = [0.0, 1.0, 4.0, 5.0, 9.0]
    assert ellipsoid_distance(line, np.full(3, 5.0)).ravel() == pytest.approx([-5, -4, -1, 0, 4])
    tips = np.diag([3.0, 4.0, 5.0]).reshape(3, 3, 1, 1)
    assert ellipsoid_distance(tips, np.array([3.0, 4.0, 5.0])).ravel() == pytest.approx([0, 0, 0])


def test_ambiguity_width_goes_from_the_sharp_to_the_blurred_side():
    points = np.zeros((3, 3, 1, 1))
    points[1, :, 0, 0] = [-100, 0, 100]
    width = ambiguity_width(points, np.array([0.0, 1.0, 0.0]), 10.0, 0.4, 3.0).ravel()
    assert width == pytest.approx([0.4, np.sqrt(0.4 * 3.0), 3.0])


def test_class_probability_known_values():
    scaled = np.array([[0, -1, 9], [9, 0, -9]], np.float32).reshape(2, 3, 1, 1)  # phi / w of body, then of core
    expected = [[0.5, 0.5 * 0.158655, 0], [0.5, 0.5 * 0.841345, 0], [0, 0.5, 1]]
    assert class_probability(scaled).reshape(3, 3) == pytest.approx(np.array(expected), abs=1e-6)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_scan_is_a_law_over_classes_with_a_plausible_image(seed):
    scan = make_phantom_scan(seed=seed)
    assert isinstance(scan, Phantom)
    assert scan.image.shape == (48, 56, 40)
    assert scan.image.dtype == scan.probability.dtype == np.float32
    p = scan.probability
    assert p.shape == (3, 48, 56, 40)
    assert p.min() >= 0
    assert p.max() <= 1
    assert np.abs(p.sum(0) - 1).max() < 1e-6
    # every class is certain somewhere and the structures keep away from the border of the volume
    assert p.max(axis=(1, 2, 3)) == pytest.approx(np.ones(3), abs=1e-3)
    assert all(np.take(p[0], end, axis).min() > 0.9 for axis in range(3) for end in (0, -1))
    means = [scan.image[p[k] > 0.99].mean() for k in range(3)]
    assert means == pytest.approx(module.CLASS_MEANS, rel=0.12)
    assert scan.image.min() > 0
    reading = scan.draw_reading(np.random.default_rng(0))
    assert reading.dtype == np.uint8
    assert set(np.unique(reading)) == {0, 1, 2}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_one_side_is_really_more_ambiguous(seed):
    body = make_phantom_scan(seed=seed).scaled_distance[0]
    inside = np.argwhere(body < 0)
    offset = np.argwhere(np.abs(body) < 1.3) - inside.mean(0)  # P between 0.1 and 0.9
    axes = np.concatenate([np.eye(3), -np.eye(3)])
    cosine = offset / np.linalg.norm(offset, axis=1, keepdims=True) @ axes.T
    undecided = (cosine > 0.6).sum(0)
    assert undecided.max() > 2 * undecided.min()


def test_the_image_shows_how_ambiguous_a_border_is():
    scan = make_phantom_scan(seed=0)
    expected = np.tensordot(np.array(module.CLASS_MEANS), scan.probability, 1)
    assert np.corrcoef(scan.image.ravel(), expected.ravel())[0, 1] > 0.97


def test_seed_decides_everything():
    first, again, other = (make_phantom_scan(**TINY, seed=seed) for seed in (5, 5, 6))
    for name in ("image", "probability", "scaled_distance"):
        assert getattr(first, name).tobytes() == getattr(again, name).tobytes()
        assert getattr(first, name).tobytes() != getattr(other, name).tobytes()
    readings = [first.draw_reading(np.random.default_rng(seed)).tobytes() for seed in (0, 0, 1)]
    assert readings[0] == readings[1] != readings[2]


def test_series_beats_once_and_smoothly():
    assert beat_scale(4) == pytest.approx([1, 1 - BEAT / 2, 1 - BEAT, 1 - BEAT / 2])
    series = make_phantom_series(frames=8, seed=1)
    volume = np.array([frame.probability[1:].sum() for frame in series])
    assert volume.argmax() == 0
    assert volume.argmin() == 4
    assert volume[1:4] == pytest.approx(volume[:4:-1], rel=1e-5)  # it comes back the way it went
    assert volume[4] / volume[0] == pytest.approx((1 - BEAT) ** 3, abs=0.12)
    assert np.abs(np.diff([*volume, volume[0]])).max() < 0.2 * volume[0]
    # the same subject, but noise of its own in every frame
    assert np.array_equal(series[0].scaled_distance[1], series[4].scaled_distance[1])
    noise = [(series[j].image - series[-j].image).std() for j in (1, 2, 3)]
    assert noise == pytest.approx([module.NOISE_SD * np.sqrt(2)] * 3, rel=0.05)


def test_a_series_of_one_frame_is_the_scan():
    scan, (frame,) = make_phantom_scan(**TINY, seed=2), make_phantom_series(**TINY, frames=1, seed=2)
    assert np.array_equal(scan.image, frame.image)


@pytest.mark.parametrize(
    "arguments",
    [
        {"size": (8, 8)},
        {"size": (3, 8, 8)},
        {"spacing": (1.0, 0.0, 1.0)},
        {"spacing": (1.0, np.nan, 1.0)},
        {"seed": -1},
    ],
)
def test_arguments_out_of_range(arguments):
    with pytest.raises(ValueError, match=r"size|spacing|non-negative"):
        make_phantom_scan(**arguments)
    with pytest.raises(ValueError, match="frames"):
        make_phantom_series(frames=0)


def test_written_files(dataset):
    cases = {"Tr": ["phantom_000", "phantom_001", "phantom_002"], "Ts": ["phantom_003"]}
    expected = {f"{kind}{s}": cases[s] for kind in ("images", "labels", "readings", "probability") for s in cases}
    expected |= {"series": ["phantom_series_000"], "series_labels": ["phantom_series_000"]}
    found = {
        folder.name: sorted(path.name.removesuffix(".nii.gz") for path in folder.iterdir())
        for folder in dataset.iterdir()
        if folder.is_dir()
    }
    assert found == expected
    kinds = {"images": ((), "float32"), "labels": ((), "uint8"), "readings": ((3,), "uint8")}
    kinds |= {"probability": ((3,), "float32"), "series": ((8,), "float32"), "series_labels": ((8,), "uint8")}
    for folder in found:
        extra, dtype = kinds[folder.removesuffix("Tr").removesuffix("Ts")]
        for path in (dataset / folder).iterdir():
            image = nib.load(path)
            assert image.shape == (*TINY["size"], *extra)
            assert image.get_data_dtype() == dtype
            assert int(image.header["sform_code"]) == int(image.header["qform_code"]) == 1
            for affine in (image.affine, image.get_sform(), image.get_qform()):
                assert affine == pytest.approx(phantom_affine(TINY["spacing"]), abs=1e-4)
            assert image.header.get_zooms()[:3] == pytest.approx(TINY["spacing"])
            assert image.header.get_xyzt_units() == ("mm", "sec" if folder.startswith("series") else "unknown")
            if folder.startswith("series"):
                assert image.header.get_zooms()[3] == pytest.approx(0.04)


def test_affine_is_an_oblique_rotation_with_an_origin_of_its_own():
    affine = phantom_affine((1.0, 2.0, 3.0))
    turn = affine[:3, :3] / [1.0, 2.0, 3.0]
    assert turn @ turn.T == pytest.approx(np.eye(3))
    assert np.degrees(np.arccos((np.trace(turn) - 1) / 2)) == pytest.approx(15)
    assert np.abs(turn).min() > 0.01  # no axis is left straight
    assert (affine[:3, 3] != 0).all()


def test_label_is_the_first_reading_and_follows_the_probability(dataset):
    for split, name in [("Tr", "phantom_000"), ("Ts", "phantom_003")]:
        label, readings, probability = (
            np.asanyarray(nib.load(dataset / f"{kind}{split}" / f"{name}.nii.gz").dataobj)
            for kind in ("labels", "readings", "probability")
        )
        assert np.array_equal(label, readings[..., 0])
        assert not np.array_equal(readings[..., 0], readings[..., 1])
        assert probability.sum(-1) == pytest.approx(np.ones(label.shape), abs=1e-6)
        drawn = np.take_along_axis(probability[..., None], readings[:, :, :, None].astype(int), axis=3)
        assert drawn.min() > 1e-6  # nothing impossible was drawn


def test_dataset_json_lists_files_that_exist(dataset):
    contents = json.loads((dataset / "dataset.json").read_text())
    assert contents["labels"] == {"0": "background", "1": "body", "2": "core"}
    assert contents["modality"] == {"0": "synthetic"}
    assert [len(contents[key]) for key in ("training", "validation", "test", "series")] == [2, 1, 1, 1]
    assert [contents[f"num{key}"] for key in ("Training", "Validation", "Test", "Series")] == [2, 1, 1, 1]
    entries = [e for key in ("training", "validation", "test", "series") for e in contents[key]]
    assert len({e["image"] for e in entries}) == 5
    for entry in entries:
        assert set(entry) == {"image", "label"}
        assert all((dataset / path).is_file() for path in entry.values())
    assert contents["generator"]["seed"] == 0
    assert contents["generator"]["size"] == list(TINY["size"])


def test_same_seed_same_files(dataset, tmp_path):
    first = digests(dataset)
    assert digests(write_phantom(tmp_path / "again", **FEW)) == first
    other = digests(write_phantom(tmp_path / "other", **FEW, seed=1))
    assert all(other[name] != digest for name, digest in first.items())
    # a case does not depend on how many there are
    more = digests(write_phantom(tmp_path / "more", **FEW | {"train": 4}))
    assert more["imagesTr/phantom_001.nii.gz"] == first["imagesTr/phantom_001.nii.gz"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_nothing_is_left_behind_when_interrupted(tmp_path, monkeypatch, error):
    save, calls = nib.save, []

    def failing(image, path):
        calls.append(path)
        if len(calls) == 6:
            raise error("stop")
        save(image, path)

    monkeypatch.setattr(module.nib, "save", failing)
    with pytest.raises(error, match="stop"):
        ensure_phantom(tmp_path / "data", **FEW)
    assert len(calls) == 6
    assert list(tmp_path.iterdir()) == []


def test_refuses_what_exists_and_numbers_out_of_range(tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(FileExistsError, match="choose another folder"):
        write_phantom(tmp_path / "there", **FEW)
    for wrong in ({"train": -1}, {"readings": 0}, {"seed": -1}, {"size": (2, 2, 2)}):
        with pytest.raises(ValueError, match=r"negative|readings|size"):
            write_phantom(tmp_path / "new", **FEW | wrong)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_ensure_phantom_writes_once_and_leaves_a_folder_alone(tmp_path, capsys):
    path = tmp_path / "deep" / "data"
    assert ensure_phantom(path, **FEW) == str(path)
    assert capsys.readouterr().out.count("\n") == 1
    (path / "mine.txt").write_text("kept")
    before = digests(path)
    assert ensure_phantom(str(path), seed=7) == str(path)
    assert digests(path) == before
    assert capsys.readouterr().out == ""


def test_ensure_phantom_leaves_scans_alone(tmp_path):
    scan, link = tmp_path / "scan.nii.gz", tmp_path / "link"
    scan.write_text("")
    link.symlink_to(tmp_path / "gone")
    for path in (scan, link, tmp_path / "missing.nii.gz"):
        assert ensure_phantom(path, **FEW) == str(path)
    assert sorted(tmp_path.iterdir()) == [link, scan]


def test_ensure_phantom_yields_to_a_faster_process(tmp_path, monkeypatch):
    save = nib.save

    def overtaken(image, path):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / "dataset.json").write_text("of the other process")
        save(image, path)

    monkeypatch.setattr(module.nib, "save", overtaken)
    assert ensure_phantom(tmp_path / "data", **FEW) == str(tmp_path / "data")
    assert [path.name for path in tmp_path.rglob("*")] == ["data", "dataset.json"]


def test_command_line(tmp_path, capsys):
    few = ["--train=1", "--validation=0", "--test=0", "--series=0", "--readings=1", "--seed=4", "--size", "8", "8", "8"]
    main([str(tmp_path / "data"), *few])
    assert json.loads((tmp_path / "data" / "dataset.json").read_text())["generator"]["seed"] == 4
    with pytest.raises(SystemExit):
        main([str(tmp_path / "data"), *few])
    assert "exists already" in capsys.readouterr().err
