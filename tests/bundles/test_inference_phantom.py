"""Inference by MONAI's command: every file, number and field that it leaves behind."""

import hashlib
import json
from importlib.util import find_spec
from urllib.parse import unquote
from xml.etree import ElementTree

import nibabel as nib
import numpy as np
import pytest

from monai_pdddpm.data import write_phantom
from monai_pdddpm.data.phantom_distribution import make_phantom_scan

pytestmark = pytest.mark.slow

CASES = ("phantom_000", "phantom_001", "flipped_LAS", "turned_PIR")
LABELS = {1: "body", 2: "core"}
MEMBERS = 3
# number of volumes on the fourth axis (0: no such axis) and type
IMAGES = {
    "seg": (0, "uint8"),
    "prob": (3, "int16"),
    "members": (MEMBERS, "uint8"),
    "entropy": (0, "int16"),
    "mutual-information": (0, "int16"),
    "variance": (2, "int16"),
    "preseg": (0, "uint8"),
}


def save_turned(path, axes, spacing, seed):
    """Save a phantom with the axes ``axes`` in its file, voxels of ``spacing`` along them, and a qform only."""
    start = nib.orientations.axcodes2ornt("RAS")
    transform = nib.orientations.ornt_transform(start, nib.orientations.axcodes2ornt(axes))
    along = [spacing[int(transform[axis, 0])] for axis in range(3)]
    scan = make_phantom_scan([round(36 / h) for h in along], along, seed)
    image = nib.Nifti1Image(scan.image.astype(np.int16), np.diag([*along, 1.0])).as_reoriented(transform)
    assert "".join(nib.aff2axcodes(image.affine)) == axes
    affine = image.affine
    affine[:3, 3] = [-20.5, 31.25, 7.0]
    image.set_sform(None, code=0)
    image.set_qform(affine, code=2)
    image.header.set_xyzt_units("mm", "msec")
    nib.save(image, path)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Two scans on an oblique grid of 1 mm, and two with other axes and thick slices, in the Decathlon's layout."""
    target = tmp_path_factory.mktemp("dataset") / "data"
    few = {"train": 0, "validation": 0, "test": 2, "annotations": 1}
    write_phantom(target, **few, size=(38, 44, 36), seed=101)
    save_turned(target / "imagesTs" / "flipped_LAS.nii.gz", "LAS", (1.0, 1.0, 2.5), 102)
    save_turned(target / "imagesTs" / "turned_PIR.nii.gz", "PIR", (2.5, 1.0, 1.0), 103)
    content = json.loads((target / "dataset.json").read_text())
    content["test"] = [f"imagesTs/{case}.nii.gz" for case in CASES]
    (target / "dataset.json").write_text(json.dumps(content))
    return target


@pytest.fixture(scope="module")
def few(bundle):
    """Options that make a run short."""
    return {"config_file": bundle / "configs" / "inference.json", "members": MEMBERS, "num_steps": 2}


@pytest.fixture(scope="module")
def output(fresh_command, few, dataset, tmp_path_factory):
    target = tmp_path_factory.mktemp("inference") / "deep" / "output"
    done = fresh_command("run", "inference", **few, dataset_dir=dataset, output_dir=target)
    assert done.code == 0, done
    return target


@pytest.fixture(params=CASES)
def case(request):
    return request.param


@pytest.fixture
def load(output, case):
    def image(name):
        return nib.load(output / case / f"{case}_{name}.nii.gz")

    return image


@pytest.fixture
def read(load):
    return lambda name: np.asanyarray(load(name).dataobj)


@pytest.fixture
def report(output, case):
    return json.loads((output / case / f"{case}_report.json").read_text(encoding="utf-8"))


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*.nii.gz")}


def test_there_is_one_folder_a_case_and_a_page_over_all(output):
    assert sorted(path.name for path in output.iterdir()) == sorted([*CASES, "cases.csv", "index.html", "run.json"])


def test_folder_holds_these_files_and_no_others(output, case):
    names = {f"{case}_{name}.nii.gz" for name in IMAGES} | {f"{case}_report.json", f"{case}_overview.png"}
    names |= {f"{case}_seg.ctbl", f"{case}_seg_itksnap.txt", f"{case}_scene.mrml"}
    if find_spec("ipyniivue"):
        names.add(f"{case}_viewer.html")
    assert {path.name for path in (output / case).iterdir()} == names


def test_page_links_to_all_files(output, case):
    page = (output / "index.html").read_text(encoding="utf-8")
    assert all(f'href="{case}/{path.name}"' in page for path in (output / case).iterdir())


def test_scene_finds_the_scan_and_every_file(output, case):
    root = ElementTree.parse(output / case / f"{case}_scene.mrml").getroot()
    files = [unquote(node.get("fileName")) for node in root if node.get("fileName")]
    assert len(files) == 5  # scan, two maps, labels, colours
    assert all((output / case / file).is_file() for file in files)


@pytest.mark.parametrize("name", IMAGES)
def test_image_lies_on_the_grid_of_the_scan(load, dataset, case, name):
    image, scan = load(name), nib.load(dataset / "imagesTs" / f"{case}.nii.gz")
    volumes, dtype = IMAGES[name]
    assert image.shape == (*scan.shape, *([volumes] if volumes else []))
    assert image.get_data_dtype() == dtype
    assert np.array_equal(image.affine, scan.affine)
    for field in ("sform_code", "qform_code", "xyzt_units"):
        assert image.header[field] == scan.header[field], field
    for field in ("srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c", "quatern_d"):
        assert np.array_equal(image.header[field], scan.header[field]), field
    assert np.array_equal(image.get_qform(), scan.get_qform())
    assert np.array_equal(image.header["pixdim"][:4], scan.header["pixdim"][:4])
    assert image.header.get_xyzt_units() == scan.header.get_xyzt_units()


def test_probabilities_sum_to_one(read):
    p = read("prob")
    assert p.min() >= 0
    assert p.sum(-1) == pytest.approx(np.ones(p.shape[:3]), abs=1e-4)


def test_segmentation_is_the_likeliest_class(read):
    p = read("prob")
    clear = np.ptp(np.sort(p, axis=-1)[..., -2:], axis=-1) > 1e-4  # files hold 16 bits
    assert np.array_equal(read("seg")[clear], p.argmax(-1)[clear])


def test_entropy_is_that_of_the_mean_in_nats(read):
    p = read("prob").astype(float)
    terms = np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0)
    assert read("entropy") == pytest.approx(-terms.sum(-1), abs=6e-4)
    assert read("entropy").max() <= np.log(3) + 1e-6


def test_label_maps_hold_known_labels(read):
    for name in ("seg", "preseg", "members"):
        assert set(np.unique(read(name))) <= {0, *LABELS}


def test_header_names_the_labels(load):
    for name in IMAGES:
        (extension,) = load(name).header.extensions
        assert json.loads(extension.get_content()) == {"labels": {"0": "background", "1": "body", "2": "core"}}


def test_report_tells_what_was_run(report, dataset, output, case, bundle, read_inference):
    assert report["case"] == case
    assert report["image"] == str(dataset / "imagesTs" / f"{case}.nii.gz")
    assert report["labels"] == {"1": "body", "2": "core"}
    time_steps = read_inference(bundle, num_steps=2).get_parsed_content("time_steps")
    start_step = time_steps[0] + 1
    settings = {"members": MEMBERS, "start_step": start_step, "time_steps": time_steps, "seed": 0}
    assert report["settings"].items() >= settings.items()
    assert report["answer"].startswith(f"mean of the first predictions at time index {time_steps[0]}")
    assert report["members"] == f"ends of the chains at time index {time_steps[-1]}"
    inference = report["inference"]
    assert inference["time_steps"] == time_steps
    assert (inference["members"], inference["start_step"], inference["seed"]) == (MEMBERS, start_step, 0)
    assert inference["windows_run"] >= 1
    assert inference["windows_skipped"] == 0
    assert inference["denoiser_evaluations"] == MEMBERS * 2 * inference["windows_run"]
    stages = {"read and preprocess", "segment", "encode", "chain", "inverse and write", "overview"}
    assert stages <= set(report["seconds"])
    assert all(0 <= seconds < 600 for seconds in report["seconds"].values())
    assert 100 < report["peak_memory_mib"] < 20000
    assert report["device"].startswith("cpu")
    assert {"monai_pdddpm", "monai", "torch", "numpy", "nibabel", "python"} <= set(report["versions"])
    others = {path.name for path in (output / case).iterdir()} - {f"{case}_report.json"}
    assert set(report["files"]) == others


def test_same_command_does_nothing_and_says_so(command, few, dataset, output):
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    done = command("run", "inference", **few, dataset_dir=dataset, output_dir=output)
    assert done.code == 0, done
    assert f"4 of 4 cases are finished in {output}" in done.out
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*")} == before


@pytest.fixture(scope="module")
def one_scan(command, few, dataset, tmp_path_factory):
    """Run one scan again, with other options, and return the folder of its files."""

    def run(output_dir=None, **options):
        target = output_dir or tmp_path_factory.mktemp("one")
        scan = dataset / "imagesTs" / "turned_PIR.nii.gz"
        done = command("run", "inference", **few | options, dataset_dir=scan, output_dir=target)
        assert done.code == 0, done
        return target / "turned_PIR"

    return run


def one(folder, name):
    return np.asanyarray(nib.load(folder / f"turned_PIR_{name}.nii.gz").dataobj)


def test_overwriting_gives_the_same_files_bit_by_bit(output, one_scan):
    folder = output / "turned_PIR"
    before, written = digests(folder), (folder / "turned_PIR_seg.nii.gz").stat().st_mtime_ns
    one_scan(output, overwrite=True)
    assert digests(folder) == before
    assert (folder / "turned_PIR_seg.nii.gz").stat().st_mtime_ns > written


def test_start_step_zero_returns_the_proposal(output, one_scan):
    folder = one_scan(start_step=0)
    preseg = one(folder, "preseg")
    assert np.array_equal(one(folder, "seg"), preseg)
    assert np.array_equal(preseg, one(output / "turned_PIR", "preseg"))
    assert np.array_equal(one(folder, "members"), np.repeat(preseg[..., None], MEMBERS, axis=-1))
    assert one(folder, "variance").max() < 1e-12
    report = json.loads((folder / "turned_PIR_report.json").read_text())
    assert report["inference"]["denoiser_evaluations"] == 0
    assert report["inference"]["start_step"] == 0
