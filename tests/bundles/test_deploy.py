"""The bundle in the operator of MONAI Deploy App SDK: the operator's own code, and a stub of the core that runs it."""

import json
import subprocess
import sys
import types
import zipfile

import nibabel as nib
import numpy as np
import pytest

from monai_pdddpm.data import case_name, write_phantom
from monai_pdddpm.data.case import Case

pytestmark = pytest.mark.slow

SDK = "monai-deploy-app-sdk==4.0.0"  # its core needs holoscan, some GB for NVIDIA GPUs
MAPS = ("prob", "entropy", "mutual_information", "variance")


class Operator:
    """Holoscan's operator has nothing that the bundle's operator needs outside of an application."""

    def __init__(self, fragment, *args, **kwargs):
        pass


class Ports(dict):
    """Input and output of an operator in memory."""

    def receive(self, name):
        return self[name]

    def emit(self, value, name):
        self[name] = value


@pytest.fixture(scope="module")
def sdk(tmp_path_factory):
    """The operator's module, from the wheel on PyPI."""
    folder = tmp_path_factory.mktemp("deploy")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--ignore-requires-python"]
    subprocess.run([*pip, "--dest", folder, SDK], check=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder)
    with pytest.MonkeyPatch.context() as patch:
        modules = {}
        for name in (
            "monai.deploy",
            *(f"monai.deploy.{part}" for part in ("utils", "operators", "core", "core.domain")),
        ):
            modules[name] = types.ModuleType(name)
            modules[name].__path__ = [str(folder.joinpath(*name.split(".")))]
            patch.setitem(sys.modules, name, modules[name])
        from monai.deploy.core.domain.image import Image
        from monai.deploy.core.io_type import IOType

        core = {"Operator": Operator, "Fragment": object, "AppContext": object, "OperatorSpec": object}
        vars(modules["monai.deploy.core"]).update(core, Image=Image, IOType=IOType)
        from monai.deploy.operators import monai_bundle_inference_operator as operator

        yield operator


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    """A phantom."""
    few = {"train": 0, "validation": 0, "test": 1, "annotations": 1}
    size = {"size": (30, 24, 20), "spacing": (1.2, 1.5, 2.0)}
    made = write_phantom(tmp_path_factory.mktemp("scan") / "data", **few, **size, seed=5)
    (file,) = (made / "imagesTs").iterdir()
    return file


@pytest.fixture(scope="module")
def exact(copy_bundle):
    """A copy of the bundle that computes in float32, because bfloat16 sums depend on the number of threads."""
    copy = copy_bundle()
    file = copy / "configs" / "inference.json"
    file.write_text(
        json.dumps(json.loads(file.read_text(encoding="utf-8")) | {"precision": "float32"}), encoding="utf-8"
    )
    return copy


def as_deploy_image(sdk, scan):
    """The scan as ``DICOMSeriesToVolumeOperator`` passes it, and its name, on which the noise depends."""
    image = nib.load(scan)
    sizes = zip(("row", "col", "depth"), image.header.get_zooms(), strict=True)
    meta = {f"{axis}_pixel_spacing": float(size) for axis, size in sizes} | {"case": Case.of(str(scan))}
    voxels = np.asarray(image.dataobj, dtype=np.float32)
    return sdk.Image(np.swapaxes(voxels, 0, 2), meta | {"nifti_affine_transform": image.affine})


def segment(sdk, bundle, scan):
    ports = {
        kind: [sdk.IOMapping(name, sdk.Image, sdk.IOType.IN_MEMORY) for name in names]
        for kind, names in (("input_mapping", ["image"]), ("output_mapping", ["pred", *MAPS]))
    }
    context = types.SimpleNamespace(models=None)
    operator = sdk.MonaiBundleInferenceOperator(None, app_context=context, bundle_path=bundle, **ports)
    found = Ports()
    operator.compute(Ports(image=as_deploy_image(sdk, scan)), found, None)
    names = [type(step).__name__ for step in (*operator._preproc.transforms, *operator._postproc.transforms)]
    assert not [name for name in names if "LoadImage" in name or "SaveImage" in name]
    return found


def check(found, command, bundle, scan, out, **settings):
    """Compare with the files of the command."""
    options = {"config_file": bundle / "configs" / "inference.json", "dataset_dir": scan, "output_dir": out}
    done = command("run", "inference", **options, device="cpu", **settings)
    assert done.code == 0, done
    case = case_name(scan)
    files = {name: nib.load(out / case / f"{case}_{name.replace('_', '-')}.nii.gz") for name in ("seg", *MAPS)}
    labels = np.asanyarray(files["seg"].dataobj)
    pred = found["pred"].asnumpy()
    assert pred.dtype == np.uint8
    assert (np.swapaxes(pred, 0, 2) != labels).sum() <= 2
    assert set(np.unique(pred)) == {0, 1, 2}
    for name in MAPS:
        truth = np.asanyarray(files[name].dataobj).reshape(*labels.shape, -1)
        assert found[name].dtype == np.float32
        assert np.abs(np.moveaxis(found[name], 0, -1) - truth).max() < 0.02, name  # TorchScript rounds otherwise
    assert found["entropy"].max() > 0.3


def test_bundle_directory(sdk, command, exact, scan, tmp_path):
    check(segment(sdk, exact, scan), command, exact, scan, tmp_path / "out")


def test_torchscript_has_no_calibration(sdk, command, exact, scan, tmp_path, monkeypatch):
    file = tmp_path / "model.ts"
    done = command("ckpt_export", cwd=exact, args_file="configs/export_args.json", filepath=file)
    assert done.code == 0, done
    monkeypatch.chdir(tmp_path)  # no models/calibration.json
    check(segment(sdk, file, scan), command, exact, scan, tmp_path / "out", calibrated=False)
