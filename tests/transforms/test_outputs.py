"""Maps by hand, and the order in which they have to be made."""

import math
from unittest import mock

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, Invertd, Orientationd

from monai_pdddpm.inferers import EnsembleConfig, EnsembleRunInfo
from monai_pdddpm.transforms import InvertMembersd, Spacingd, SplitOutputd, Uncertaintyd, outputs
from monai_pdddpm.transforms.outputs import normalized
from monai_pdddpm.utils.errors import UserError

K = 3
SIZE = (4, 5, 2)


def output(members=2, k=K, size=SIZE):
    """Return an output in which every voxel has the number of its channel."""
    channels = (4 + members) * k
    return torch.arange(float(channels)).view(-1, 1, 1, 1).expand(channels, *size).clone()


def run_info(frames=1):
    return EnsembleRunInfo(
        config=EnsembleConfig(roi_size=SIZE, time_steps=[9], seed=4),
        frames=frames,
        windows_run=1,
        windows_skipped=0,
        denoiser_evaluations=8,
        processes=1,
        seconds={},
    )


def channels(x):
    return x[:, 0, 0, 0].tolist()


class TestSplit:
    def test_channels(self):
        item = SplitOutputd("pred", K)({"pred": output(), "image": 1})
        assert channels(item["pred"]) == [0, 1, 2]
        assert channels(item["member_mean"]) == [3, 4, 5]
        assert channels(item["member_entropy"]) == [6]
        assert channels(item["variance"]) == [7, 8]
        assert channels(item["preseg"]) == [9, 10, 11]
        assert channels(item["members"]) == [12, 13, 14, 15, 16, 17]
        assert item["image"] == 1

    def test_two_classes_without_members(self):
        item = SplitOutputd("pred", 2)({"pred": output(0, 2)})
        assert channels(item["variance"]) == [5]
        assert "members" not in item

    def test_metadata_go_to_every_map_and_the_run_to_its_own_key(self):
        affine = torch.diag(torch.tensor([1.0, 2, 3, 1], dtype=torch.float64))
        x = MetaTensor(output(), affine=affine, meta={"filename_or_obj": "a.nii", "ensemble_run": run_info()})
        item = SplitOutputd("pred", K)({"pred": x})
        assert item["ensemble_run"] == run_info()
        for key in ("pred", "member_mean", "member_entropy", "variance", "preseg", "members"):
            assert item[key].meta["filename_or_obj"] == "a.nii"
            assert torch.equal(item[key].affine, affine)
            assert "ensemble_run" not in item[key].meta
        item["pred"].meta["filename_or_obj"] = "b.nii"
        assert item["preseg"].meta["filename_or_obj"] == "a.nii"

    def test_input_is_not_changed(self):
        x = MetaTensor(output(), meta={"ensemble_run": run_info()})
        for _ in range(2):
            assert SplitOutputd("pred", K)({"pred": x})["ensemble_run"] == run_info()

    def test_run_of_a_batch_of_one_is_a_list_and_a_tensor_has_none(self):
        batched = MetaTensor(output(), meta={"ensemble_run": [run_info()]})
        assert SplitOutputd("pred", K)({"pred": batched})["ensemble_run"] == run_info()
        assert SplitOutputd("pred", K)({"pred": MetaTensor(output())})["ensemble_run"] is None
        assert SplitOutputd("pred", K)({"pred": output()})["ensemble_run"] is None

    @pytest.mark.parametrize(("found", "k"), [(1, 3), (3, 3), (9, 3), (13, 3), (9, 2), (5, 2)])
    def test_another_number_of_channels(self, found, k):
        with pytest.raises(UserError, match=rf"pred: found {found} channels, expected .* \({k} classes, .*; fix "):
            SplitOutputd("pred", k)({"pred": torch.zeros(found, *SIZE)})


def one_hot(*classes, k=K):
    """Members (members x k, 1, 1, 1) that are sure of a class each."""
    return torch.eye(k)[list(classes)].view(-1, 1, 1, 1)


def maps(members, k=K, answer=None, temperature=1.0):
    """Run the transform for members, (members x K, ...), as the inferer would describe them."""
    each = members.unflatten(0, (-1, k))
    entropy = torch.special.entr(each).sum(1).mean(0)[None]
    item = {"pred": each.mean(0) if answer is None else answer, "member_mean": each.mean(0), "member_entropy": entropy}
    return Uncertaintyd("pred", temperature=temperature)(item | {"members": members})


class TestUncertainty:
    def test_entropy_by_hand(self):
        p = torch.tensor([[0.5, 1.0, 1 / 3, 0.7], [0.25, 0.0, 1 / 3, 0.2], [0.25, 0.0, 1 / 3, 0.1]]).view(3, 4, 1, 1)
        item = Uncertaintyd("pred")({"pred": p})
        expected = [
            1.5 * math.log(2),
            0.0,
            math.log(3),
            -(0.7 * math.log(0.7) + 0.2 * math.log(0.2) + 0.1 * math.log(0.1)),
        ]
        assert item["entropy"].flatten().tolist() == pytest.approx(expected, abs=1e-6)
        assert item["entropy"].shape == item["seg"].shape == (1, 4, 1, 1)
        assert item["seg"].flatten().tolist() == [0, 0, 0, 0]
        assert "mutual_information" not in item

    def test_members_that_agree_inform_of_nothing(self):
        p = torch.tensor([0.2, 0.5, 0.3]).view(3, 1, 1, 1)
        item = maps(torch.cat([p] * 4))
        assert item["mutual_information"].item() == pytest.approx(0, abs=1e-6)
        assert item["entropy"].item() > 1

    def test_members_that_are_sure_of_a_class_each(self):
        item = maps(one_hot(0, 1, 2))
        assert item["mutual_information"].item() == pytest.approx(math.log(3))
        assert maps(one_hot(0, 0, 1, 1))["mutual_information"].item() == pytest.approx(math.log(2))
        assert maps(one_hot(1, 1, 1))["mutual_information"].item() == 0

    @pytest.mark.parametrize("temperature", [1.0, 2.0])
    def test_answer_and_members_by_hand(self, temperature):
        # the answer is (0.9, 0.1), the members are (1, 0) and (0.2, 0.8) with the mean (0.6, 0.4)
        members = torch.tensor([1.0, 0.0, 0.2, 0.8]).view(4, 1, 1, 1)
        item = maps(members, 2, torch.tensor([0.9, 0.1]).view(2, 1, 1, 1), temperature)
        of = lambda p: -p * math.log(p) - (1 - p) * math.log(1 - p)  # noqa: E731
        odds = 9 ** (1 / temperature)
        assert item["entropy"].item() == pytest.approx(of(odds / (1 + odds)))
        assert item["mutual_information"].item() == pytest.approx(of(0.6) - of(0.2) / 2)  # temperature has no part
        assert item["member_mean"].flatten().tolist() == pytest.approx([0.6, 0.4])

    def test_never_negative(self):
        generator = torch.Generator().manual_seed(0)
        for _ in range(20):
            members = torch.rand(4, K, 6, 6, 6, generator=generator).softmax(1)
            members[1:] = members[:1] + 1e-7 * members[1:]  # rounding decides
            found = maps(members.flatten(0, 1))["mutual_information"]
            assert found.min() >= 0
            assert found.max() < 1e-5

    def test_label_maps(self):
        p = torch.tensor([[0.1, 0.6], [0.8, 0.3], [0.1, 0.1]]).view(3, 2, 1, 1)
        item = Uncertaintyd("pred")({"pred": p, "preseg": p.flip(1)})
        assert item["seg"].flatten().tolist() == [1, 0]
        assert item["preseg_seg"].flatten().tolist() == [0, 1]
        assert item["preseg_seg"].shape == (1, 2, 1, 1)
        assert torch.equal(item["preseg"], p.flip(1))

    def test_metadata_stay(self):
        affine = torch.diag(torch.tensor([1.0, 2, 3, 1], dtype=torch.float64))
        p = MetaTensor(torch.rand(K, *SIZE), affine=affine, meta={"filename_or_obj": "a"})
        item = Uncertaintyd("pred")(
            {"pred": p, "preseg": p.clone(), "member_mean": p.clone(), "member_entropy": p[:1].clone()}
        )
        for key in ("pred", "seg", "member_mean", "entropy", "mutual_information", "preseg", "preseg_seg"):
            assert torch.equal(item[key].affine, affine), key
            assert item[key].meta["filename_or_obj"] == "a", key

    def test_probabilities_are_inverted_first(self):
        # the class that a voxel of the scan has by interpolated probabilities, not by interpolated labels
        scan = torch.zeros(8, 8, 8)
        steps = Compose(
            [
                EnsureChannelFirstd("image", channel_dim="no_channel"),
                Orientationd("image", "RAS", labels=None),
                Spacingd("image", pixdim=(2.0, 2.0, 2.0)),
            ]
        )
        item = steps({"image": MetaTensor(scan, affine=torch.eye(4, dtype=torch.float64))})
        coarse = item["image"].shape[1:]
        generator = torch.Generator().manual_seed(0)
        p = torch.randn(K, *coarse, generator=generator).softmax(0)
        item["pred"] = MetaTensor(p, meta=dict(item["image"].meta))
        back = Invertd("pred", steps, orig_keys="image", nearest_interp=False, to_tensor=True)(item)["pred"]
        found = Uncertaintyd("pred")({"pred": back.clone()})
        assert found["pred"].shape == (K, 8, 8, 8)
        assert torch.allclose(found["pred"].sum(0).as_tensor(), torch.ones(8, 8, 8), atol=1e-5)
        q = (back / back.sum(0, keepdim=True)).as_tensor()
        assert torch.equal(found["seg"][0].as_tensor(), q.argmax(0))
        np.testing.assert_allclose(found["entropy"][0], torch.special.entr(q).sum(0), atol=1e-5)


class TestNormalized:
    def test_by_hand(self):
        p = torch.tensor([[0.2, 0.0, -0.1, 1e-9], [0.2, 0.0, 0.5, 0.0]])
        assert torch.allclose(normalized(p, 0), torch.tensor([[0.5, 1.0, 0.0, 1.0], [0.5, 0.0, 1.0, 0.0]]))

    def test_any_axis(self):
        p = torch.rand(2, 3, 4)
        assert torch.allclose(normalized(p, 1), p / p.sum(1, keepdim=True))
        assert normalized(0 * p, 2)[..., 0].eq(1).all()


class TestInvertMembers:
    def preprocessing(self, spacing):
        return Compose(
            [
                EnsureChannelFirstd("image", channel_dim="no_channel"),
                Orientationd("image", axcodes="RAS", labels=None),
                Spacingd("image", pixdim=spacing, mode="bilinear"),
            ]
        )

    def scan(self, size):
        affine = torch.diag(torch.tensor([-1.0, 2, 1, 1], dtype=torch.float64))  # left, and oblong voxels
        return MetaTensor(torch.zeros(size), affine=affine, meta={"filename_or_obj": "a.nii", "spatial_shape": size})

    def test_each_is_turned_back_and_then_labelled(self):
        steps = self.preprocessing([1.0, 2.0, 1.0])
        item = steps({"image": self.scan((4, 3, 2))})
        labels = torch.randint(0, K, (5, 4, 3, 2), generator=torch.Generator().manual_seed(0))
        one_hot = torch.nn.functional.one_hot(labels, K).movedim(-1, 1).float()
        turned = one_hot.flatten(0, 1).flip(1)  # as the network sees them, from left to right
        item["members"] = MetaTensor(turned, meta=dict(item["image"].meta))
        found = InvertMembersd("members", K, steps)(item)["members"]
        assert found.dtype == torch.uint8
        assert torch.equal(found.as_tensor(), labels.to(torch.uint8))
        assert torch.equal(found.affine, self.scan((1, 1, 1)).affine)

    def test_the_likeliest_class_is_taken_after_interpolation(self):
        steps = self.preprocessing([2.0, 2.0, 2.0])
        item = steps({"image": self.scan((9, 5, 9))})
        p = torch.rand(2 * K, *item["image"].shape[1:], generator=torch.Generator().manual_seed(1))
        item["members"] = MetaTensor(p, meta=dict(item["image"].meta))
        found = InvertMembersd("members", K, steps)(item)["members"]
        item["member"] = item["members"][K:]
        one = Invertd("member", steps, "image", nearest_interp=False, to_tensor=True)(item)["member"]
        assert torch.equal(found[1].as_tensor().long(), one.as_tensor().argmax(0))

    def test_frames_come_last(self):
        steps = self.preprocessing([1.0, 2.0, 1.0])
        item = steps({"image": self.scan((4, 3, 2))}) | {"ensemble_run": run_info(3)}
        labels = torch.randint(0, K, (3, 2, 4, 3, 2), generator=torch.Generator().manual_seed(0))  # frames, members
        one_hot = torch.nn.functional.one_hot(labels, K).movedim(-1, 2).float()
        item["members"] = MetaTensor(one_hot.flatten(0, 2).flip(1), meta=dict(item["image"].meta))
        found = InvertMembersd("members", K, steps)(item)["members"]
        assert found.shape == (2, 4, 3, 2, 3)
        for frame in range(3):
            assert torch.equal(found[..., frame].as_tensor().long(), labels[frame])

    @pytest.mark.parametrize("frames", [1, 2])
    def test_members_together_are_what_each_is_alone(self, frames, monkeypatch):
        steps = self.preprocessing([2.0, 2.0, 2.0])
        item = steps({"image": self.scan((9, 5, 9))}) | {"ensemble_run": run_info(frames)}
        p = torch.rand(frames * 5 * K, *item["image"].shape[1:], generator=torch.Generator().manual_seed(1))
        item["members"] = MetaTensor(p, meta=dict(item["image"].meta))
        found, calls = {}, {}
        for members, room in ((1, 0), (2, 2 * 4 * frames * K * 9 * 5 * 9), (5, 2**20)):
            monkeypatch.setattr(outputs, "_INVERTED_TOGETHER", room)
            invert = InvertMembersd("members", K, steps)
            invert.invert = mock.Mock(wraps=invert.invert)
            found[members], calls[members] = invert(item)["members"].as_tensor(), invert.invert.call_count
        assert calls == {1: 5, 2: 3, 5: 1}
        assert torch.equal(found[1], found[2])
        assert torch.equal(found[1], found[5])

    def test_no_members(self):
        assert InvertMembersd("members", K, self.preprocessing([1.0, 1, 1]))({"image": 1}) == {"image": 1}


def test_maps_of_frames_are_those_of_each_frame():
    generator = torch.Generator().manual_seed(0)
    frames = [torch.rand(4 * K, *SIZE, generator=generator) for _ in range(4)]
    series = MetaTensor(torch.cat(frames), meta={"ensemble_run": run_info(frames=4)})
    together = Uncertaintyd("pred")(SplitOutputd("pred", K)({"pred": series}))
    for number, frame in enumerate(frames):
        alone = Uncertaintyd("pred")(SplitOutputd("pred", K)({"pred": frame}))
        for key in ("pred", "seg", "entropy", "mutual_information", "variance", "preseg_seg"):
            assert torch.equal(together[key][..., number].as_tensor(), alone[key]), key
