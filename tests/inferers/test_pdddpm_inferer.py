"""Members depend on their seed alone, and the uncertainty does not depend on windows."""

import math
import threading

import numpy as np
import pytest
import torch
from monai.data import MetaTensor, decollate_batch, list_data_collate
from monai.networks.nets import UNet
from torch import nn

from monai_pdddpm.data.case import Case
from monai_pdddpm.inferers import PDDDPMInferer
from monai_pdddpm.inferers.noise import MemberNoise
from monai_pdddpm.inferers.windows import WindowPlan
from monai_pdddpm.networks import PDDDPM, NoSegmenter, ODEUNet
from monai_pdddpm.schedulers import AncestralRule, DDIMRule, cumulative_schedule, uniform_steps
from monai_pdddpm.transforms import SplitOutputd
from monai_pdddpm.utils.errors import UserError

K = 3
STEPS = [899, 500, 100]
RULES = [DDIMRule(), DDIMRule(1.0), AncestralRule(), AncestralRule("fixed_large")]


class Segmenter(nn.Module):
    """Logits of each voxel from its own value."""

    def forward(self, image):
        v = image[:, :1]
        return torch.cat([-v, v, 0.5 * v.abs()], dim=1)


class Denoiser(nn.Module):
    """A denoiser that is a formula of the state and the condition, voxel by voxel."""

    num_classes = K
    divisor = 1

    def __init__(self, formula):
        super().__init__()
        self.formula = formula
        self.encoded = self.denoised = 0

    def encode(self, image, presegmentation):
        self.encoded += 1
        return [image, presegmentation]

    def denoise(self, x_t, t, features, solver, solver_steps):
        self.denoised += len(x_t)
        return self.formula(x_t, features)


class Certain0(nn.Module):
    """A segmenter that is certain of the first of two classes."""

    def forward(self, image):
        return torch.cat([image * 0 + 60, image * 0], dim=1)


class Flat(nn.Module):
    """A segmenter that sees nothing: the same logits everywhere."""

    def forward(self, image):
        logits = torch.tensor([0.3, 0.0, -0.3]).view(1, K, *[1] * (image.dim() - 2))
        return logits.expand(len(image), K, *image.shape[2:])


def formula_pair(formula=lambda x_t, features: 1.5 * x_t + features[0] + features[1], segmenter=None, **options):
    return PDDDPM(segmenter or Segmenter(), Denoiser(formula), time_steps=STEPS, **options).eval()


def real_pair(dims=2, seed=0, **options):
    """Networks of the kind that is shipped, small, with weights that are not at rest."""
    torch.manual_seed(seed)
    segmenter = UNet(dims, 1, K, channels=(4, 8), strides=(2,), norm=("group", {"num_groups": 2}))
    denoiser = ODEUNet(dims, 1, K, presegmentation_channels=K, channels=(8, 8), stem_channels=8, embedding_channels=16)
    for parameter in denoiser.parameters():
        nn.init.normal_(parameter, std=0.2)
    with torch.no_grad():  # let the state count
        denoiser.inlet.weight.mul_(10)
        denoiser.head[-1].weight.mul_(20)
    return PDDDPM(segmenter, denoiser, time_steps=STEPS, **options).eval()


def image(*size, seed=0, batch=1):
    return torch.randn(batch, 1, *size, generator=torch.Generator().manual_seed(seed))


def inferer(roi=(8, 8), steps=STEPS, **options):
    options = {"members": 3, "precision": "float32", "progress": False} | options
    return PDDDPMInferer(roi_size=roi, time_steps=steps, **options)


def split(output, k=K):
    """Cut an output (B, channels, ...) into its parts."""
    parts = output.split([k, k, 1, k - 1, k, output.shape[1] - 4 * k], dim=1)
    return *parts[:5], parts[5].unflatten(1, (-1, k)) if parts[5].shape[1] else None


def draw(members, network=None, x=None, **options):
    """Return the members' probabilities, (members, K, ...)."""
    x = image(11, 12) if x is None else x
    return split(inferer(members=members, return_members=True, **options)(x, network or formula_pair()))[5][0]


class TestOutput:
    def test_channels(self):
        x = image(11, 12)
        output = inferer(return_members=True, members=5)(x, formula_pair())
        assert output.shape == (1, 4 * K + 5 * K, 11, 12)
        assert output.dtype == torch.float32
        _, mean, entropy, variance, preseg, members = (part[0].double() for part in split(output))
        np.testing.assert_allclose(mean, members.mean(0), atol=1e-6)
        np.testing.assert_allclose(entropy[0], torch.special.entr(members).sum(1).mean(0), atol=1e-5)
        np.testing.assert_allclose(variance, members.var(0, correction=0)[1:], atol=1e-6)
        np.testing.assert_allclose(preseg, Segmenter()(x).softmax(1)[0], atol=1e-6)
        assert torch.allclose(members.sum(1), torch.ones((), dtype=torch.double), atol=1e-5)
        assert variance.max() > 0.01

    @pytest.mark.parametrize("value", [math.nan, math.inf, -1.5e15])
    def test_an_image_with_one_voxel_that_is_no_number_is_refused(self, value):
        x = image(8, 8)
        x[..., 3, 4] = value
        with pytest.raises(UserError, match=r"^image: found voxels that are NaN or infinite"):
            inferer()(x, formula_pair())

    def test_images_of_other_types_are_converted_and_complex_ones_refused(self):
        x, network = image(8, 8).round(), real_pair()
        assert torch.equal(inferer()(x.short(), network), inferer()(x, network))
        with pytest.raises(UserError, match=r"^image: found complex numbers, expected real ones; take their magnitude"):
            inferer()(x + 1j, network)

    @pytest.mark.parametrize("shape", [(0, 2, 8, 8), (1, 0, 8, 8), (1, 2, 8, 0)])
    def test_an_image_of_nothing_is_refused(self, shape):
        with pytest.raises(UserError, match=r"^image: found an empty batch or image"):
            inferer()(torch.zeros(shape), formula_pair())

    @pytest.mark.parametrize("size", [(5, 20), (8, 8), (3, 3), (7, 9, 12)])
    def test_any_size_and_number_of_axes(self, size):
        x = image(*size)
        output = inferer((8,) * len(size), return_members=True)(x, formula_pair())
        assert output.shape == (1, 7 * K, *size)
        assert torch.allclose(output[:, 3 * K : 4 * K], Segmenter()(x).softmax(1), atol=1e-6)

    def test_a_batch_is_its_images_one_by_one(self):
        x, network = image(11, 12, batch=2), real_pair()
        settings = inferer(return_members=True)
        together = settings(x, network)
        assert torch.equal(together[:1], settings(x[:1], network))
        assert torch.equal(together[1:], settings(x[1:], network))
        assert not torch.allclose(together[0], together[1], atol=1e-3)

    def test_condition_is_encoded_once_for_all_steps_and_members(self):
        network = formula_pair()
        inferer(members=4)(image(8, 12), network)  # two windows
        assert network.denoiser.encoded == 2
        assert network.denoiser.denoised == 4 * len(STEPS) * 2


class TestStart:
    @pytest.mark.parametrize("network", [formula_pair(), real_pair()])
    @pytest.mark.parametrize("share", [0.0, 0.3])
    def test_without_steps_the_pre_segmentation_is_the_answer(self, network, share):
        output = inferer(steps=[], presegmentation_weight=share, return_members=True, members=4)(image(11, 12), network)
        pred, mean, entropy, variance, preseg, members = split(output)
        assert torch.equal(pred, preseg)
        assert torch.equal(mean, preseg)
        assert torch.equal(variance, torch.zeros_like(variance))
        assert torch.allclose(entropy, torch.special.entr(preseg).sum(1, keepdim=True), atol=1e-6)
        assert all(torch.equal(members[:, i], preseg) for i in range(4))

    @pytest.mark.parametrize("rule", RULES)
    @pytest.mark.parametrize("residual", [False, True])
    @pytest.mark.parametrize("roi", [(8, 8), (5, 11), (20, 20)])
    def test_a_perfect_denoiser_gives_the_truth(self, rule, residual, roi):
        truth = (image(11, 12, seed=1) > 0).float()

        def perfect(x_t, features):
            return 40 * torch.cat([1 - features[0], features[0], -1 + 0 * features[0]], 1).expand(x_t.shape)

        # the truth is the image, so that it is cut as the windows are
        network = formula_pair(perfect)
        network.residual = residual
        steps = [663, 300, 100] if residual else STEPS
        output = inferer(roi, steps, rule=rule, return_members=True)(truth, network)
        pred, mean, _, variance, _, members = split(output)
        expected = torch.cat([1 - truth, truth, 0 * truth], 1)
        assert torch.allclose(pred, expected, atol=1e-5)
        assert torch.allclose(mean, expected, atol=1e-5)
        assert variance.max() < 1e-9
        assert torch.allclose(members, expected[:, None], atol=1e-5)

    def test_a_residual_pair_is_not_started_beyond_its_process(self):
        with pytest.raises(UserError, match="start_step: found 900, expected at most 664"):
            inferer()(image(8, 8), formula_pair(training_process="residual"))

    def test_one_window_equals_the_networks_forward(self):
        x, network = image(8, 8), real_pair()
        (member,) = draw(1, network, x, seed=4)
        assert torch.allclose(member, network(x, MemberNoise(4, 0, (K, 8, 8)).white()[None])[0], atol=1e-5)


class TestGivenPresegmentation:
    def test_in_place_of_the_segmenters(self):
        x, settings = image(12, 8, batch=2), {"members": 2, "presegmentation_weight": 0.3, "return_members": True}
        expected = inferer(**settings)(x, formula_pair())
        network = formula_pair(segmenter=NoSegmenter())
        given = split(expected)[4]
        assert torch.equal(inferer(**settings)(x, network, presegmentation=given), expected)
        with pytest.raises(UserError, match=r"presegmentation_dir: found none"):
            inferer(**settings)(x, network)

    def test_background_outside_of_a_small_image(self):
        network = formula_pair(lambda x_t, features: x_t * 0 + features[1])  # repeats the pre-segmentation
        given = torch.tensor([0, 0, 1])[:, None, None].expand(1, K, 5, 5)
        for settings, channels in (({}, 1), ({}, 2), ({"fourth_dimension": "time"}, 1)):
            found = inferer(windows="all", **settings)(
                image(5, 5).repeat(1, channels, 1, 1), network, presegmentation=given
            )
            assert (split(found)[0].argmax(dim=1) == 2).all()

    def test_background_where_it_is_empty_and_it_is_not_changed(self):
        given = torch.zeros(1, K, 8, 8)
        preseg = split(inferer()(image(8, 8), formula_pair(), presegmentation=given))[4]
        assert (preseg[:, 0] == 1).all()
        assert not given.any()

    @pytest.mark.parametrize("value", [math.nan, -1.0, 3.0])
    def test_values_that_are_no_probabilities(self, value):
        given = torch.full((1, K, 4, 4), value)
        with pytest.raises(UserError, match="presegmentation: found values from"):
            PDDDPMInferer(roi_size=[4, 4], time_steps=STEPS)(
                torch.rand(1, 1, 4, 4), formula_pair(), presegmentation=given
            )

    def test_of_another_shape_or_with_frames(self):
        frames = image(8, 8).repeat(1, 2, 1, 1)
        wrong = (
            (image(8, 8), torch.zeros(1, K, 8, 7), {}),
            (frames, torch.zeros(1, K, 8, 8), {"fourth_dimension": "time"}),
        )
        for x, given, settings in wrong:
            with pytest.raises(UserError, match=r"presegmentation: found shape .* expected \(1, 3, 8, 8\)"):
                inferer(**settings)(x, formula_pair(), presegmentation=given)


class TestMembers:
    @pytest.mark.parametrize("network", [formula_pair(), real_pair()])
    @pytest.mark.parametrize("rule", RULES)
    def test_five_members_contain_two(self, network, rule):
        two, five = draw(2, network, rule=rule), draw(5, network, rule=rule)
        assert torch.allclose(two, five[:2], atol=1e-5)
        assert not torch.allclose(five[0], five[1], atol=1e-2)

    @pytest.mark.parametrize("rule", RULES)
    def test_global_generators_are_neither_asked_nor_moved(self, rule):
        torch.manual_seed(0)
        first = draw(2, rule=rule)
        state = torch.get_rng_state()
        torch.manual_seed(1)
        assert torch.equal(draw(2, rule=rule), first)
        torch.manual_seed(0)
        assert torch.equal(torch.get_rng_state(), state)

    def test_threads_that_share_an_inferer_and_a_network(self):
        settings, network = inferer((8, 8), members=2, rule=DDIMRule(0.5)), real_pair()
        inputs = [MetaTensor(image(11 + i, 12, seed=i)) for i in range(4)]
        expected = [settings(x, network) for x in inputs]
        found = [[None] * 3 for _ in inputs]
        begin = threading.Barrier(len(inputs))

        def serve(i):
            begin.wait()
            for repeat in range(3):
                found[i][repeat] = settings(inputs[i], network)

        threads = [threading.Thread(target=serve, args=(i,)) for i in range(len(inputs))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for i, wanted in enumerate(expected):
            assert all(torch.equal(output.as_tensor(), wanted.as_tensor()) for output in found[i])


class TestWindows:
    """The trap of blended windows: the spread over members must not depend on them."""

    SIZE, ROI = (16, 14, 15), (8, 8, 8)

    def local(self):
        # what comes out at a voxel depends on the state at that voxel and nothing else
        return formula_pair(lambda x_t, features: 2.0 * x_t, Flat())

    def variance(self, network, roi, **options):
        pred, mean, entropy, variance, _, _ = split(
            inferer(roi, members=24, **options)(torch.zeros(1, 1, *self.SIZE), network)
        )
        return torch.cat([pred, mean, entropy, variance], dim=1)[0]

    @pytest.mark.parametrize("rule", [DDIMRule(), DDIMRule(1.0), AncestralRule()])
    @pytest.mark.parametrize("overlap", [0.25, 0.5])
    def test_variance_map_is_that_of_one_window_over_all(self, rule, overlap):
        network = self.local()
        windows = self.variance(network, self.ROI, overlap=overlap, rule=rule)
        whole = self.variance(network, self.SIZE, rule=rule)
        assert whole[2 * K + 1 :].mean() > 0.01
        assert torch.allclose(windows, whole, atol=1e-5)

    @pytest.mark.parametrize("overlap", [0.25, 0.5])
    def test_variance_has_no_trace_of_the_windows_and_with_noise_by_window_it_would(self, overlap):
        def trace(variance):
            return torch.corrcoef(torch.stack([variance.flatten(), kept.flatten()]))[0, 1]

        # the share of the variance that independent windows would leave at each voxel: sum w^2 / (sum w)^2
        plan = WindowPlan(self.SIZE, self.ROI, overlap)
        kept = torch.zeros(self.SIZE)
        for window in plan.windows:
            kept[window] += plan.weight**2
        kept /= plan.total**2

        ours = self.variance(self.local(), self.ROI, overlap=overlap)[-1]
        assert abs(trace(ours)) < 4 / ours.numel() ** 0.5

        torch.manual_seed(0)
        by_window = formula_pair(lambda x_t, features: 2.0 * torch.randn_like(x_t), Flat())
        theirs = self.variance(by_window, self.ROI, overlap=overlap)[-1]
        assert trace(theirs) > 0.3
        once = self.variance(by_window, self.SIZE)[-1].mean()
        assert (theirs.mean() / once).item() == pytest.approx(kept.mean().item(), abs=0.04)
        assert theirs.mean() < 0.8 * once


class TestPresegmentationWeight:
    @pytest.mark.parametrize("weight", [0.25, 0.9])
    def test_it_acts_on_the_answer_alone(self, weight):
        x, network = image(11, 12), formula_pair()
        without = split(inferer(return_members=True)(x, network))
        pred, *others = split(inferer(return_members=True, presegmentation_weight=weight)(x, network))
        preseg = without[4]
        np.testing.assert_allclose(pred, (1 - weight) * without[0] + weight * preseg, atol=1e-6)
        assert all(torch.equal(found, expected) for found, expected in zip(others, without[1:], strict=True))


class TwoPoints(nn.Module):
    """The exact denoiser of a region that is class 1 at all voxels or at none, each with probability 1/2.

    With x_0 = +-s the posterior mean is E[x_0 | x_t] = s tanh(s sqrt(abar) sum(x_t) / (1 - abar)), the sum being over
    all voxels and both channels, signed. The logits of the two classes are half the log-odds, the argument of tanh.
    """

    num_classes, divisor = 2, 1

    def __init__(self, abar, s):
        super().__init__()
        self.abar, self.s = abar.double(), s

    def encode(self, image, presegmentation):
        return [image]

    def denoise(self, x_t, t, features, solver, solver_steps):
        abar, x = self.abar[int(t)], x_t.double()
        evidence = self.s * abar.sqrt() / (1 - abar) * (x[:, 1] - x[:, 0]).flatten(1).sum(1)
        return torch.stack([-evidence, evidence], 1)[..., None, None].expand_as(x).float()


class TestPerfectDenoiser:
    """The answer is the posterior mean and the members are samples, where both are known."""

    MEMBERS = 64

    def run(self, **options):
        s = 0.25
        denoiser = TwoPoints(cumulative_schedule(1000, "cosine"), s)
        network = PDDDPM(Certain0(), denoiser, time_steps=[], label_range=(-s, s))
        settings = {"windows": "all", "members": self.MEMBERS, "return_members": True} | options
        return [
            part[0] for part in split(inferer((6, 6), uniform_steps(1000, 50), **settings)(image(6, 6), network), 2)
        ]

    def test_answer_is_the_posterior_mean_and_each_half_of_the_members_is_sure_of_one_class(self):
        pred, mean, entropy, variance, _, members = self.run()
        assert (pred - 0.5).abs().max() < 1e-2
        assert members.max(1).values.min() > 0.99
        regions = members[:, 1].round().flatten(1)
        assert torch.equal(regions.amin(1), regions.amax(1))  # each member is one class everywhere
        ones = regions[:, 0].sum()
        assert abs(ones - self.MEMBERS / 2) < 4 * (self.MEMBERS / 4) ** 0.5  # four SDs of a binomial number
        share = ones / self.MEMBERS
        assert torch.allclose(mean[1], share.expand(6, 6), atol=1e-2)
        assert torch.allclose(variance[0], (share * (1 - share)).expand(6, 6), atol=1e-2)
        assert entropy.max() < 0.05


class TestCase:
    def draw(self, name, seed=0):
        meta = {} if name is None else {"case": Case(name, (f"{name}.nii.gz",))}
        return inferer(seed=seed, return_members=True)(MetaTensor(image(11, 12), meta=meta), formula_pair()).as_tensor()

    def test_noise_depends_on_the_name_of_the_case(self):
        assert torch.equal(self.draw("a"), self.draw("a"))
        assert not torch.allclose(self.draw("a"), self.draw("b"), atol=1e-2)
        assert not torch.allclose(self.draw("a"), self.draw("a", seed=1), atol=1e-2)
        assert torch.equal(self.draw(None), inferer(return_members=True)(image(11, 12), formula_pair()))

    def test_each_case_of_a_batch_has_its_own_noise(self):
        x = MetaTensor(image(11, 12).expand(2, 1, 11, 12), meta={"case": [Case("a", ("a",)), Case("b", ("b",))]})
        x.is_batch = True
        output = inferer(return_members=True)(x, formula_pair()).as_tensor()
        assert torch.equal(output, torch.cat([self.draw("a"), self.draw("b")]))


class TestMetadata:
    def meta(self, i=0):
        return {"filename_or_obj": f"{i}.nii.gz", "affine": torch.diag(torch.tensor([1.0, 2, 3, 1]))}

    def test_metatensor_comes_back_with_its_place_and_run_info(self):
        x = MetaTensor(image(11, 12, 9), meta=self.meta())
        output = inferer((8, 8, 8), rule=DDIMRule(0.5), seed=3, overlap=0.25)(x, formula_pair())
        assert isinstance(output, MetaTensor)
        assert output.meta["filename_or_obj"] == "0.nii.gz"
        assert torch.equal(output.affine, x.affine)
        assert "ensemble_run" not in x.meta
        assert output.is_batch == x.is_batch
        (info,) = output.meta["ensemble_run"]
        report = info.as_report()
        assert report["members"] == 3
        assert report["seed"] == 3
        assert report["time_steps"] == STEPS
        assert report["start_step"] == 900
        assert report["rule"] == "DDIMRule(eta=0.5)"
        assert report["windows_run"] == 2 * 2 * 2
        assert report["windows_skipped"] == 0
        assert report["denoiser_evaluations"] == 8 * 3 * 3
        assert set(report["seconds"]) == {"segment", "noise", "encode", "chain", "blend", "statistics"}

    def test_batch_is_decollated_case_by_case(self):
        items = [MetaTensor(image(11, 12, seed=i)[0], meta=self.meta(i)) for i in range(2)]
        batch = list_data_collate([{"image": item} for item in items])
        batch["pred"] = inferer()(batch["image"], formula_pair())
        for i, item in enumerate(decollate_batch(batch)):
            assert item["pred"].meta["ensemble_run"].config.members == 3
            done = SplitOutputd("pred", K)(item)
            assert done["pred"].meta["filename_or_obj"] == f"{i}.nii.gz"
            assert torch.allclose(done["preseg"].as_tensor(), Segmenter()(items[i][None]).softmax(1)[0].as_tensor())


class TestExports:
    @pytest.mark.parametrize("rule", [DDIMRule(), DDIMRule(1.0)])
    def test_torchscript_gives_what_the_network_gives(self, rule, tmp_path):
        network = real_pair()
        torch.jit.script(network).save(str(tmp_path / "model.ts"))
        exported = torch.jit.load(str(tmp_path / "model.ts"))
        x = MetaTensor(image(11, 12))
        settings = inferer(rule=rule, return_members=True)
        for _ in range(2):  # the second call is an optimised one
            assert torch.allclose(settings(x, exported), settings(x, network), atol=1e-5)


class TestSettings:
    @pytest.mark.parametrize("steps", [[1000, 1]])
    def test_time_steps_that_the_network_does_not_have(self, steps):
        with pytest.raises(ValueError, match="time_steps: "):
            inferer(steps=steps)(image(8, 8), formula_pair())

    def test_window_with_another_number_of_axes(self):
        with pytest.raises(UserError, match=r"roi_size: found \[8, 8, 8\] for images with 2 spatial axes"):
            inferer((8, 8, 8))(image(8, 8), formula_pair())

    def test_window_that_the_denoiser_cannot_halve(self):
        with pytest.raises(UserError, match=r"roi_size: found \[10, 8\], expected multiples of 4"):
            inferer((10, 8))(image(8, 8), real_pair())
        with pytest.raises(UserError, match="multiples of 4"):
            inferer((10, 8))(image(8, 8), torch.jit.script(real_pair()))
