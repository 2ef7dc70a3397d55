import json

import pytest
from pdddpm_label.bundles import bundle_labels, find_bundles

from monai_pdddpm.utils.errors import UserError


@pytest.fixture
def make(tmp_path):
    def bundle(name, *, under="", model=True):
        folder = tmp_path / under / name
        (folder / "configs").mkdir(parents=True)
        (folder / "models").mkdir()
        metadata = {"network_data_format": {"outputs": {"pred": {"channel_def": {"0": "background", "1": "Lesion"}}}}}
        (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
        (folder / "configs" / "inference.json").write_text("{}")
        if model:
            (folder / "models" / "model.pt").write_bytes(b"0")
        return folder

    return bundle


def test_listed_bundles_come_in_their_order(make, tmp_path):
    b, a = make("b"), make("a")
    assert list(find_bundles(f"{b}, {a}", tmp_path).items()) == [("b", b), ("a", a)]


def test_a_name_that_begins_with_a_tilde_is_a_name(make, tmp_path, monkeypatch):
    a = make("~root")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_bundles("~root", tmp_path) == find_bundles("~/~root", tmp_path) == {"~root": a}


def test_without_a_list_all_of_the_app_s_folder(make, tmp_path):
    make("b"), make("a")
    assert list(find_bundles(None, tmp_path)) == ["a", "b"]


def test_labels_by_class_number(make):
    assert bundle_labels(make("a")) == {0: "background", 1: "Lesion"}


def test_invalid_bundles_are_refused(make, tmp_path):
    with pytest.raises(UserError, match="found none named"):
        find_bundles("", tmp_path)
    with pytest.raises(UserError, match=r"found no folder .*nowhere"):
        find_bundles(str(tmp_path / "nowhere"), tmp_path)
    untrained = make("untrained", model=False)
    assert find_bundles(str(untrained), tmp_path) == {"untrained": untrained}
    (untrained / "configs" / "inference.json").unlink()
    with pytest.raises(UserError, match=r"found no configs/inference\.json"):
        find_bundles(str(untrained), tmp_path)
    file = make("gaps") / "configs" / "inference.json"
    for values in (None, [0, 1]):
        file.write_text(json.dumps({"label_values": values}))
        assert list(find_bundles(str(tmp_path / "gaps"), tmp_path)) == ["gaps"]
    file.write_text(json.dumps({"label_values": [0, 2, 3]}))
    with pytest.raises(UserError) as error:
        find_bundles(str(tmp_path / "gaps"), tmp_path)
    assert str(error.value) == (
        f"{file}: found label_values [0, 2, 3], expected label values without gaps; number the labels 0 to 2 and train "
        "again, or use the command line"
    )
    with pytest.raises(UserError, match="expected different names"):
        find_bundles(f"{make('a')},{make('a', under='other')}", tmp_path)
    (tmp_path / "a" / "configs" / "metadata.json").write_text("{}")
    with pytest.raises(UserError, match="channel_def"):
        bundle_labels(tmp_path / "a")
