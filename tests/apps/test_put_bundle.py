import json
from pathlib import Path

import pytest
from monai.bundle import ConfigParser
from put_bundle import main, put_bundle

from monai_pdddpm.utils.errors import UserError

BUNDLE = Path(__file__).parents[2] / "bundles" / "phantom_segmentation"


@pytest.fixture
def app(tmp_path):
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "main.py").touch()
    return tmp_path / "app"


def test_copy_infers_and_does_not_train(app):
    target = put_bundle(app, BUNDLE)
    assert target == app / "model" / "phantom_segmentation"
    assert (target / "models" / "model.pt").read_bytes() == (BUNDLE / "models" / "model.pt").read_bytes()
    assert [path.name for path in (target / "configs").iterdir() if "train" in path.name] == []
    assert [path.name for path in (app / "model").iterdir()] == ["phantom_segmentation"]


def test_members_and_steps_are_options_of_the_viewer(app):
    own = json.loads((BUNDLE / "configs" / "inference.json").read_text(encoding="utf-8"))
    parser = ConfigParser()
    parser.read_config(put_bundle(app, BUNDLE) / "configs" / "inference.json")
    assert parser["displayable_configs"] == {key: own[key] for key in ("members", "num_steps")}
    parser.update({"device": "cpu"})
    parser["displayable_configs"].update({"members": 3})
    assert parser.get_parsed_content("inferer").config.members == 3


def test_nothing_is_replaced_silently(app, capsys):
    mark = put_bundle(app, BUNDLE) / "mark"
    mark.touch()
    assert main(["--app", str(app), "--bundle", str(BUNDLE)]) == 1
    assert capsys.readouterr().err.startswith("error: ")
    assert mark.exists()
    assert main(["--app", str(app), "--bundle", str(BUNDLE), "--overwrite"]) == 0
    assert not mark.exists()


def test_an_untrained_bundle_is_refused(app):
    (copy := put_bundle(app, BUNDLE)).joinpath("models", "model.pt").unlink()
    with pytest.raises(UserError, match=r"found no models/model\.pt"):
        put_bundle(app, copy)


def test_a_folder_that_cannot_be_written_gives_one_line(app, capsys):
    (app / "model").touch()
    assert main(["--app", str(app), "--bundle", str(BUNDLE)]) == 1
    assert f"error: {app / 'model' / BUNDLE.name}: cannot be written (" in capsys.readouterr().err


def test_not_an_app(tmp_path):
    with pytest.raises(UserError, match=r"no main\.py"):
        put_bundle(tmp_path, BUNDLE)
