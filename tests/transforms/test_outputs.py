"""Maps by hand, and the order in which they have to be made."""

import math

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import (
    CenterSpatialCropd,
    Compose,
    Invertd,
    Orientationd,
    SpatialPadd,
)

from monai_pdddpm.inferers import EnsembleConfig, EnsembleOutput, EnsembleRunInfo
from monai_pdddpm.transforms import EnsembleMapsd, Spacingd, SplitOutputd, scan_grid
from monai_pdddpm.transforms.outputs import normalized, uncertainty_maps
from monai_pdddpm.transforms.scan_grid import box_above
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
    @pytest.mark.parametrize("members", [0, 2])
    def test_answer_and_presegmentation_keep_the_metadata(self, members):
        x = MetaTensor(output(members), meta={"filename_or_obj": "a.nii"})
        item = SplitOutputd("pred", K)({"pred": x, "image": 1})
        assert item.keys() == {"pred", "preseg", "image"}
        assert (channels(item["pred"]), channels(item["preseg"])) == ([0, 1, 2], [9, 10, 11])
        assert item["pred"].meta["filename_or_obj"] == item["preseg"].meta["filename_or_obj"] == "a.nii"
        assert channels(SplitOutputd("pred", K)({"pred": output()})["preseg"]) == [9, 10, 11]

    @pytest.mark.parametrize(("found", "k"), [(1, 3), (3, 3), (9, 3), (13, 3), (9, 2), (5, 2)])
    def test_another_number_of_channels(self, found, k):
        with pytest.raises(UserError, match=rf"pred: found {found} channels, expected .* \({k} classes, .*; fix "):
            SplitOutputd("pred", k)({"pred": torch.zeros(found, *SIZE)})


def one_hot(*classes, k=K):
    """Members (members x k, 1, 1, 1) that are sure of a class each."""
    return torch.eye(k)[list(classes)].view(-1, 1, 1, 1)


def maps(members, k=K, answer=None, temperature=1.0, preseg=None):
    """Return the maps of members, (members x K, ...), as the inferer would describe them."""
    each = members.unflatten(0, (-1, k))
    mean = each.mean(0)
    parts = {
        "pred": mean if answer is None else answer,
        "member_mean": mean,
        "preseg": mean if preseg is None else preseg,
    }
    parts["member_entropy"] = torch.special.entr(each).sum(1).mean(0)[None]
    return uncertainty_maps(parts | {"variance": each.var(0, correction=0)[1:]}, temperature)


class TestUncertainty:
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

    def test_label_maps(self):
        p = torch.tensor([[0.1, 0.6], [0.8, 0.3], [0.1, 0.1]]).view(3, 2, 1, 1)
        item = maps(p, preseg=p.flip(1))
        assert item["seg"].flatten().tolist() == [1, 0]
        assert item["preseg_seg"].flatten().tolist() == [0, 1]
        assert item["preseg_seg"].shape == (1, 2, 1, 1)
        assert torch.equal(item["preseg"], p.flip(1))


def test_normalized_by_hand():
    p = torch.tensor([[0.2, 0.0, -0.1, 1e-9], [0.2, 0.0, 0.5, 0.0]])
    assert torch.allclose(normalized(p), torch.tensor([[0.5, 1.0, 0.0, 1.0], [0.5, 0.0, 1.0, 0.0]]))
    assert normalized(torch.tensor([0.0, 1.5e-6])).tolist() == [0, 1]
    assert normalized(torch.tensor([0.0, 1e-6])).tolist() == [1, 0]  # not above the limit


LPS = torch.tensor([[-1.0, 0, 0, 10], [0, -2, 0, 20], [0, 0, 1.5, -30], [0, 0, 0, 1]], dtype=torch.float64)
TURNED = torch.tensor([[0, 0, -1.0, 1], [2, 0, 0, 2], [0, 1, 0, 3], [0, 0, 0, 1]], dtype=torch.float64)
OBLIQUE = torch.tensor([[0.8, -0.6, 0, 0], [0.6, 0.8, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=torch.float64)
TO_RAS = Orientationd("image", "RAS", labels=None)


def spaced(*spacing):
    return Spacingd("image", pixdim=spacing, mode="bilinear")


class TestEnsembleMaps:
    def item(self, steps, affine=LPS, size=(9, 8, 7), members=4, frames=1, foreground=None):
        """Return a preprocessed scan with an output of random members; foreground, (X, Y, Z), is the only place."""
        meta = {"original_affine": affine.clone(), "spatial_shape": np.array(size), "filename_or_obj": "a.nii"}
        item = Compose(steps)({"image": MetaTensor(torch.rand(frames, *size), affine=affine, meta=meta)})
        generator, outs = torch.Generator().manual_seed(0), []
        for _ in range(frames):
            logits = 2 * torch.randn(members + 1, K, *item["image"].shape[1:], generator=generator)
            if foreground is not None:
                logits[:, 0] += 40.0 * ~foreground
            p = logits.softmax(1)
            parts = {
                "pred": p[1:].mean(0),
                "member_mean": p[1:].mean(0),
                "preseg": p[0],
                "members": p[1:].flatten(0, 1),
            }
            parts["member_entropy"] = torch.special.entr(p[1:]).sum(1).mean(0)[None]
            parts["variance"] = p[1:].var(0, correction=0)[1:]
            outs.append(EnsembleOutput(K, members).join(parts))
        run = [run_info(frames)]
        item["pred"] = MetaTensor(torch.cat(outs), meta=dict(item["image"].meta) | {"ensemble_run": run})
        return item

    def by_monai(self, item, steps, temperature=1.0):
        """Return the maps by MONAI's Invertd, which computes every voxel."""
        members = len(item["pred"]) // K - 4
        parts = EnsembleOutput(K, members).split(item["pred"]) | {"image": item["image"]}
        keys = ("pred", "member_mean", "member_entropy", "variance", "preseg", "members")
        parts = Invertd(keys, Compose(steps), "image", nearest_interp=False, to_tensor=True)(parts)
        members = parts["members"].as_tensor().unflatten(0, (-1, K)).argmax(1)
        return uncertainty_maps({key: parts[key] for key in keys[:-1]}, temperature) | {"members": members}

    @pytest.mark.parametrize("affine", [LPS, TURNED, OBLIQUE])
    @pytest.mark.parametrize(
        "more",
        [
            [],
            [spaced(1.3, 0.9, 1.1)],
            [spaced(2.3, 2.9, 2.1)],
            [SpatialPadd("image", (24, 24, 24))],
            [CenterSpatialCropd("image", (5, 6, 4))],
        ],
    )
    def test_maps_are_those_of_monais_inverse(self, affine, more):
        steps = [TO_RAS, *more]
        item = self.item(steps, affine)
        found, expected = EnsembleMapsd("pred", K)(item), self.by_monai(item, steps)
        for key in ("prob", "entropy", "mutual_information", "variance", "preseg"):
            assert torch.allclose(found[key].as_tensor(), expected[key].as_tensor(), atol=1e-4), key
        for key in ("seg", "preseg_seg", "members"):
            assert torch.equal(found[key].as_tensor().long(), expected[key].long()), key
        for key in ("prob", "members", "pred"):
            assert torch.equal(found[key].affine, affine)
            assert found[key].meta["filename_or_obj"] == "a.nii"
        assert found["members"].dtype == found["seg"].dtype == torch.uint8

    @pytest.mark.parametrize("temperature", [1.0, 2.0])
    @pytest.mark.parametrize("more", [[], [spaced(1.3, 0.9, 1.1)]])
    def test_background_outside_of_the_box_is_exact_enough(self, more, temperature):
        steps = [TO_RAS, *more]
        shape = Compose(steps)({"image": MetaTensor(torch.zeros(1, 19, 18, 17), affine=LPS)})["image"].shape[1:]
        foreground = torch.zeros(shape, dtype=torch.bool)
        foreground[3:8, -6:, 4:6] = True  # at a border
        item = self.item(steps, size=(19, 18, 17), foreground=foreground)
        found, expected = EnsembleMapsd("pred", K, temperature)(item), self.by_monai(item, steps, temperature)
        for key in ("prob", "entropy", "mutual_information", "variance", "preseg"):
            assert torch.allclose(found[key].as_tensor(), expected[key].as_tensor(), atol=1e-4), key
        assert torch.equal(found["members"].as_tensor().long(), expected["members"])
        assert found["prob"][0].eq(1).float().mean() > 0.5
        assert found["members"].any()

    def test_a_case_without_foreground(self):
        item = self.item([TO_RAS], foreground=torch.zeros(9, 8, 7, dtype=torch.bool))
        found = EnsembleMapsd("pred", K)(item)
        assert not found["members"].any()
        assert not found["seg"].any()
        assert found["prob"][0].min() > 1 - 1e-4
        assert found["entropy"].max() < 1e-4

    def test_a_case_of_one_class_alone(self):
        item = self.item([TO_RAS])
        p = torch.zeros(5, K, *item["image"].shape[1:])
        p[:, 1] = 1
        parts = {"pred": p[0], "member_mean": p[0], "preseg": p[0], "members": p[1:].flatten(0, 1)}
        parts |= {"member_entropy": p[0, :1] * 0, "variance": p[0, 1:] * 0}
        item["pred"] = MetaTensor(EnsembleOutput(K, 4).join(parts), meta=item["pred"].meta)
        found = EnsembleMapsd("pred", K)(item)
        assert (found["members"] == 1).all()
        assert (found["seg"] == 1).all()

    def test_frames_come_last(self):
        steps = [TO_RAS, spaced(1.3, 0.9, 1.1)]
        item = self.item(steps, frames=2)
        found = EnsembleMapsd("pred", K)(item)
        channels = item["pred"].as_tensor().chunk(2)
        assert found["members"].shape == (4, 9, 8, 7, 2)
        for frame, own in enumerate(channels):
            meta = {k: v for k, v in item["pred"].meta.items() if k != "ensemble_run"}
            alone = EnsembleMapsd("pred", K)({"image": item["image"][:1], "pred": MetaTensor(own, meta=meta)})
            for key in ("prob", "seg", "entropy", "members"):
                assert torch.equal(found[key][..., frame].as_tensor(), alone[key].as_tensor()), key

    def test_the_output_is_not_changed(self):
        item = self.item([])
        before = item["pred"].clone()
        EnsembleMapsd("pred", K)(item)
        assert torch.equal(item["pred"], before)

    @pytest.mark.parametrize(("temperature", "limit"), [(1.0, 1e-6), (2.0, 1e-12), (0.5, 1e-6)])
    def test_what_is_a_millionth_after_tempering_is_negligible(self, temperature, limit):
        assert EnsembleMapsd("pred", K, temperature).limits == pytest.approx((limit, 1e-6, 1e-6))

    def test_no_members(self):
        item = self.item([TO_RAS], members=1)
        item["pred"] = item["pred"][: 4 * K]
        assert "members" not in EnsembleMapsd("pred", K)(item)

    @pytest.mark.parametrize(("classes", "dtype"), [(256, torch.uint8), (257, torch.int16)])
    def test_label_maps_hold_the_last_class(self, classes, dtype):
        item = self.item([], size=(2, 2, 1))
        p = torch.zeros(4 * classes + classes, 2, 2, 1)
        p[[classes - 1, -1]] = 1  # the answer and the member
        item["pred"] = MetaTensor(p, meta=item["pred"].meta)
        found = EnsembleMapsd("pred", classes)(item)
        for key in ("seg", "members"):
            assert found[key].dtype == dtype
            assert (found[key] == classes - 1).all()

    def test_slabs_change_nothing(self, monkeypatch):
        item = self.item([TO_RAS, spaced(1.3, 0.9, 1.1)])
        whole = EnsembleMapsd("pred", K)(item)
        monkeypatch.setattr(scan_grid, "_SLAB", 60)
        assert torch.allclose(EnsembleMapsd("pred", K)(item)["prob"], whole["prob"], atol=1e-5)


def test_a_box_is_one_voxel_wider_than_what_it_holds():
    x = torch.zeros(2, 5, 6)
    x[1, 2, 3] = 0.5
    assert box_above([x, -x], [0.4, 0.1]) == (slice(1, 4), slice(2, 5))
    x[0, 0, 5] = 0.5
    assert box_above([x], [0.4]) == (slice(0, 4), slice(2, 6))
    assert box_above([x], [0.5]) == (slice(0, 2), slice(0, 2))
