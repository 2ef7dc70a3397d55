"""One bad case ends itself, not the cases after it, and the end says which it was."""

import logging

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader
from monai.engines.utils import IterationEvents
from monai.inferers import Inferer
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged

from monai_pdddpm.data import CaseDataset, case_collate
from monai_pdddpm.engines import CaseEvaluator
from monai_pdddpm.utils.errors import UserError

NAMES = ("a", "b", "c")
BAD = 7.0  # what the bad case is known by, once it is read


@pytest.fixture
def cases(tmp_path):
    for value, name in zip((1.0, BAD, 2.0), NAMES, strict=True):
        image = nib.Nifti1Image(np.full((4, 5, 6), value, np.float32), np.eye(4))
        nib.save(image, tmp_path / f"{name}.nii.gz")
    return [{"image": str(tmp_path / f"{name}.nii.gz")} for name in NAMES]


def raise_if_bad(tensor, error):
    if (tensor == BAD).all():
        raise error


class Doubling(Inferer):
    def __init__(self, error=None):
        self.error = error

    def __call__(self, inputs, network, *args, **kwargs):
        if self.error:
            raise_if_bad(inputs, self.error)
        return network(inputs) * 2


class Recorder:
    """What handlers see of each case."""

    def __init__(self, engine):
        self.files, self.values, self.seconds, self.outputs = [], [], [], []
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.keep)

    def keep(self, engine):
        self.outputs.append(engine.state.output)
        for item in engine.state.output:
            self.files.append(item["image"].meta["filename_or_obj"].rsplit("/")[-1])
            self.values.append(float(item["pred"].mean()))
            self.seconds.append(engine.state.seconds)


def evaluator(cases, inferer=None, postprocessing=None, on_model=None):
    dataset = CaseDataset(cases, Compose([LoadImaged("image"), EnsureChannelFirstd("image")]))
    engine = CaseEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(dataset, batch_size=1, collate_fn=case_collate),
        network=torch.nn.Identity(),
        inferer=inferer or Doubling(),
        postprocessing=postprocessing,
    )
    if on_model:
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, on_model)
    return engine, Recorder(engine)


def test_all_good(cases):
    engine, seen = evaluator(cases)
    engine.run()
    assert engine.failures == []
    assert seen.files == ["a.nii.gz", "b.nii.gz", "c.nii.gz"]
    assert seen.values == [2, 2 * BAD, 4]
    assert all(list(seconds) == ["read and preprocess"] for seconds in seen.seconds)
    assert len(seen.seconds) == 3


def fail_in_loading(cases, error):
    with open(cases[1]["image"], "wb") as file:
        file.write(b"this is no scan")
    return evaluator(cases)


def fail_in_inferer(cases, error):
    return evaluator(cases, Doubling(error))


def fail_in_postprocessing(cases, error):
    def step(item):
        raise_if_bad(item["pred"] / 2, error)
        return item

    return evaluator(cases, postprocessing=step)


def fail_in_handler(cases, error):
    return evaluator(cases, on_model=lambda engine: raise_if_bad(engine.state.output[0]["image"], error))


FAILING = [fail_in_loading, fail_in_inferer, fail_in_postprocessing, fail_in_handler]


@pytest.mark.parametrize("make", FAILING)
@pytest.mark.parametrize("error", [RuntimeError("out of luck"), UserError("b: bad luck; have more"), MemoryError()])
def test_one_bad_case_of_three(cases, make, error, caplog):
    engine, seen = make(cases, error)
    with caplog.at_level(logging.ERROR), pytest.raises(UserError) as caught:
        engine.run()
    assert seen.files == ["a.nii.gz", "c.nii.gz"]
    assert seen.values == [2, 4]
    assert seen.outputs[1] == []
    (failure,) = engine.failures
    assert failure["case"] == "b"
    assert failure["file"] == cases[1]["image"]
    assert str(caught.value) == "1 of 3 cases failed (b); the reason of each is above"
    text = failure["error"]
    assert "\n" not in text
    assert caplog.text.count(f"b: {text}") == 1
    if make is fail_in_loading:
        assert "cannot be read as an image" in text
    elif isinstance(error, MemoryError):
        assert "b.nii.gz: not enough memory for this case; set" in text
    elif isinstance(error, UserError):
        assert text == "b: bad luck; have more"
    else:
        assert f"unexpected {type(error).__name__}: {error}" in text


def test_the_reason_of_a_single_case_is_given_once(cases, caplog):
    engine, _ = evaluator(cases[1:2], Doubling(ValueError("x")))
    with pytest.raises(UserError, match=r"1 of 1 cases failed \(b\): unexpected ValueError: x"):
        engine.run()
    assert "unexpected" not in caplog.text


def test_next_run_starts_afresh(cases):
    engine, _ = fail_in_inferer(cases, RuntimeError())
    for _ in range(2):
        with pytest.raises(UserError, match=r"1 of 3 cases failed \(b\)"):
            engine.run()
        assert len(engine.failures) == 1


def test_many_bad_cases_are_named_up_to_five(cases, tmp_path):
    cases = [{"image": str(tmp_path / f"none{i}.nii.gz")} for i in range(8)]
    engine, seen = evaluator(cases)
    with pytest.raises(UserError) as caught:
        engine.run()
    assert str(caught.value).startswith("8 of 8 cases failed (none0, none1, none2, none3, none4 and 3 more)")
    assert seen.files == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_ends_the_run(cases, error):
    engine, seen = evaluator(cases, Doubling(error()))
    with pytest.raises(error):
        engine.run()
    assert seen.files == ["a.nii.gz"]
    assert engine.failures == []


def test_no_case_left_is_no_failure():
    engine, seen = evaluator([])
    told = []  # a run that was killed after its last case has not told of them all
    engine.add_event_handler(Events.COMPLETED, lambda: told.append("all cases"))
    engine.run()
    assert seen.outputs == []
    assert told == ["all cases"]
