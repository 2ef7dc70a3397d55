"""Members drawn by several processes equal those of one; a failure in one process blocks no other."""

import pytest
import torch
from torch import nn

from monai_pdddpm.inferers import Communicator, PDDDPMInferer, communicator
from monai_pdddpm.networks import PDDDPM, ODEUNet
from monai_pdddpm.utils import ranks
from monai_pdddpm.utils.errors import UserError

OPTIONS = {"roi_size": [8, 8], "time_steps": [899, 300], "precision": "float32", "progress": False, "windows": "all"}


class Failing(nn.Module):
    """Fails in the second process at images that are 7 in the corner."""

    def __init__(self, network, error):
        super().__init__()
        self.network, self.error = network, error

    def __getattr__(self, name):
        return super().__getattr__(name) if name in ("network", "_modules") else getattr(self.network, name)

    def encode(self, image, presegmentation):
        if ranks.rank() == 1 and (image == 7).any():
            raise self.error
        return self.network.encode(image, presegmentation)


def pair():
    torch.manual_seed(0)
    denoiser = ODEUNet(
        spatial_dims=2, image_channels=1, num_classes=3, presegmentation_channels=3, channels=[8, 16], stem_channels=8
    )
    return PDDDPM(nn.Conv2d(1, 3, 1), denoiser).eval()


def images(count=1, channels=1):
    return [torch.randn(1, channels, 13, 11, generator=torch.Generator().manual_seed(i)) for i in range(count)]


def spread(network, volumes, **options):
    """Return the first process's output or error for each volume; the others serve."""
    inferer = PDDDPMInferer(Communicator("members"), **OPTIONS | options)
    inferer.serve(network, torch.device("cpu"))
    found = []
    if ranks.is_first_rank():
        for volume in volumes:
            try:
                found.append(inferer(volume, network))
            except (RuntimeError, ValueError) as error:
                found.append(error)
    inferer.dismiss()
    return found


@pytest.mark.parametrize(
    ("count", "options"),
    [
        (2, {"members": 3, "return_members": True, "presegmentation_weight": 0.3}),
        (2, {"members": 5, "member_batch": 2}),
        (3, {"members": 2, "return_members": True}),
        (2, {"members": 2, "windows": "active", "uncertainty_threshold": 0.9}),
        (2, {"members": 2, "time_steps": []}),
    ],
)
def test_equal_to_one_process(in_processes, count, options):
    network, volumes = pair(), images(2)
    found, *others = in_processes(count, lambda: spread(network, volumes, **options))
    assert others == [[]] * (count - 1)
    for volume, output in zip(volumes, found, strict=True):
        torch.testing.assert_close(output, PDDDPMInferer(**OPTIONS | options)(volume, network), rtol=0, atol=1e-6)


def test_each_process_is_the_first_of_its_own_cases(in_processes):
    assert in_processes(2, lambda: Communicator("cases").is_first) == [True, True]


def test_frames(in_processes):
    network, volumes = pair(), images(1, channels=3)
    options = {"members": 3, "fourth_dimension": "time", "return_members": True}
    ((output,), _) = in_processes(2, lambda: spread(network, volumes, **options))
    torch.testing.assert_close(output, PDDDPMInferer(**OPTIONS | options)(volumes[0], network), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("error", "message"),
    [(MemoryError("no room"), "process 1: MemoryError: no room"), (UserError("roi_size: too large"), "roi_size: too")],
)
def test_failure_of_a_helper_ends_its_volume_only(in_processes, error, message, caplog):
    network, volumes = Failing(pair(), error), images(3)
    volumes[1][0, 0, 0, 0] = 7
    caplog.set_level("DEBUG")
    (found, _), (_, log) = in_processes(2, lambda: (spread(network, volumes, members=2), caplog.text))
    assert message in str(found[1])
    assert repr(error).split("(")[0] in log
    for i in (0, 2):
        torch.testing.assert_close(
            found[i], PDDDPMInferer(**OPTIONS, members=2)(volumes[i], network), rtol=0, atol=1e-6
        )


def test_failure_of_the_first_process_ends_its_volume_only(in_processes):
    network, volumes = pair(), images(2)
    volumes[0] = torch.zeros(1, 2, 13, 11)  # of two channels, which the networks do not take
    found, _ = in_processes(2, lambda: spread(network, volumes, members=2))
    assert isinstance(found[0], RuntimeError)
    torch.testing.assert_close(found[1], PDDDPMInferer(**OPTIONS, members=2)(volumes[1], network), rtol=0, atol=1e-6)


def test_alone_it_is_the_inferer_itself(monkeypatch):
    monkeypatch.setattr(communicator, "gathered", lambda value: pytest.fail("there is no other process"))
    network, (volume,) = pair(), images()
    assert torch.equal(spread(network, [volume], members=2)[0], PDDDPMInferer(**OPTIONS, members=2)(volume, network))
    assert Communicator("members").processes == 1  # nobody to share with
    with pytest.raises(UserError, match="spread: found 'voxels'"):
        Communicator("voxels")


@pytest.mark.parametrize("by_user", [True, False])
def test_late_failure_of_another_process_is_noticed(monkeypatch, by_user):
    sent = []

    def gathered(value):
        sent.append(value)
        return [value, communicator._Failure("disk full", by_user)]

    monkeypatch.setattr(communicator, "gathered", gathered)
    with pytest.raises(communicator.OtherProcessError, match="^disk full$" if by_user else "^process 1: disk full$"):
        communicator._run_collectively(lambda: 1)
    assert sent == [None]


def test_own_failure_is_sent_once_to_the_others(monkeypatch):
    sent = []
    monkeypatch.setattr(communicator, "gathered", lambda value: sent.append(value) or [value])

    def fail(error):
        raise error

    with pytest.raises(UserError):
        communicator._run_collectively(lambda: fail(UserError("seed: found 1")))
    with pytest.raises(KeyError):
        communicator._run_collectively(lambda: fail(KeyError("a")))
    with pytest.raises(communicator.OtherProcessError):
        communicator._run_collectively(lambda: fail(communicator.OtherProcessError("of all")))
    assert sent == [communicator._Failure("seed: found 1", True), communicator._Failure("KeyError: 'a'", False)]
    assert communicator._run_collectively(lambda: 5) == 5
    assert sent[2:] == [None]
