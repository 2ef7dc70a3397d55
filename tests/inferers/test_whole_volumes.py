"""Active windows, memory and frames change the cost, and not the result."""

import logging
from dataclasses import replace

import pytest
import torch
from monai.data import MetaTensor

from monai_pdddpm.inferers import EnsembleConfig, PDDDPMInferer, device_memory, ensemble
from monai_pdddpm.inferers.active_voxels import active_voxels
from monai_pdddpm.inferers.device_memory import members_at_once, volume_device
from monai_pdddpm.inferers.windows import WindowPlan, WindowRegion, crop
from monai_pdddpm.schedulers import DDIMRule
from monai_pdddpm.utils import scratch
from monai_pdddpm.utils.errors import UserError

from .test_pdddpm_inferer import STEPS, K, Segmenter, formula_pair, image, real_pair


def inferer(roi=(8, 8), **options):
    options = {"members": 3, "precision": "float32", "progress": False, "return_members": True} | options
    return PDDDPMInferer(roi_size=roi, time_steps=STEPS, **options)


def ran(settings, network, x):
    return settings(MetaTensor(x), network).meta["ensemble_run"][0].as_report()


class TestActiveVoxels:
    def test_by_hand(self):
        p = torch.zeros(2, 3, 12)
        p[0], p[:, :, 9:] = 1.0, torch.tensor([0.0, 1.0]).view(2, 1, 1)  # a border between columns 8 and 9
        p[:, 0, 1] = torch.tensor([0.9, 0.1])  # an uncertain voxel in a corner
        picture = ["##......##..", "........##..", "........##.."]
        grown = ["###....####.", "###....####.", ".......####."]
        as_text = lambda found: ["".join("#" if v else "." for v in row) for row in found.tolist()]  # noqa: E731
        picture[0] = ".#......##.."
        assert as_text(active_voxels(p, 0.05, 0)) == picture
        assert as_text(active_voxels(p, 0.05, 1)) == grown
        assert as_text(active_voxels(p, 0.07, 0)) == picture
        assert as_text(active_voxels(p, 0.2, 0)) == ["........##.."] * 3
        p[:, 0, 1] = torch.tensor([0.75, 0.25])
        assert as_text(active_voxels(p, 0.25, 0)) == ["........##.."] * 3  # not above the threshold
        many = torch.zeros(129, 1, 2)
        many[0, 0, 0] = many[128, 0, 1] = 1  # -128 in eight bits
        assert active_voxels(many, 0.5, 0).all()

    @pytest.mark.parametrize("dilation", [0, 2, 30])
    def test_cubes_are_those_of_pooling(self, dilation):
        label = torch.randint(0, 40, (9, 7, 5), generator=torch.Generator().manual_seed(0)) // 13
        p = torch.nn.functional.one_hot(label).movedim(-1, 0).float()
        pooled = lambda x, r: torch.nn.functional.max_pool3d(x.float()[None, None], 2 * r + 1, 1, r)[0, 0]  # noqa: E731
        borders = pooled(label, 1) != -pooled(-label, 1)
        grown = torch.zeros(9, 7, 5, dtype=torch.bool)
        for place in borders.nonzero():
            grown |= (
                (torch.stack(torch.meshgrid(*map(torch.arange, label.shape), indexing="ij"), -1) - place).abs()
                <= dilation
            ).all(-1)
        assert torch.equal(active_voxels(p, 0.5, dilation), grown)


class TestRegion:
    def test_all_windows_are_the_plan_itself(self):
        plan = WindowPlan((11, 13), (4, 6), 0.5)
        region = WindowRegion(plan, plan.windows)
        values = [torch.rand(2, 4, 6) for _ in plan.windows]
        ours, theirs = torch.zeros(2, 11, 13), torch.zeros(2, 11, 13)
        for (window, inside), v in zip(region.windows, values, strict=True):
            plan.add(ours, inside, v)
            plan.add(theirs, window, v)
        assert torch.equal(region.finish(ours, torch.full((2, 11, 13), 1e6)), plan.finish(theirs))

    def test_windows_left_out_are_filled_with_the_fallback(self):
        plan = WindowPlan((20, 20), (8, 8), 0.5)
        known = torch.rand(1, 20, 20)
        some = [w for w in plan.windows if w[0].start >= 6 and w[1].start <= 6]
        region = WindowRegion(plan, some)
        assert region.box == (slice(min(w[0].start for w in some), 20), slice(0, max(w[1].stop for w in some)))
        total = torch.zeros(1, *region.size)
        for window, inside in region.windows:
            plan.add(total, inside, crop(known, window))
        assert torch.allclose(region.finish(total, crop(known, region.box)), crop(known, region.box), atol=1e-6)

    def test_a_placed_window_fades_into_the_fallback(self):
        plan = WindowPlan((12, 7, 8), (6, 6, 6), 0)
        region = WindowRegion(plan, [(slice(4, 10), slice(1, 7), slice(0, 6))], margin=(2, 2, 2))
        total = torch.zeros(1, *region.size)
        for _, inside in region.windows:
            plan.add(total, inside, torch.ones(1, 6, 6, 6))
        # along y the window ends at the volume's border, along z it begins there
        ramps = torch.tensor([[1, 2, 3, 3, 2, 1], [1, 2, 3, 3, 3, 3], [3, 3, 3, 3, 2, 1]]) / 3
        expected = torch.einsum("x,y,z->xyz", *ramps)
        assert torch.allclose(region.finish(total, torch.zeros(1, 6, 6, 6))[0], expected, atol=1e-6)


class TestOrder:
    def test_a_member_is_the_same_however_many_there_are_and_how_little_memory(self, monkeypatch):
        x, network = image(24, 24), real_pair()
        expected = inferer(members=5)(x, network)
        monkeypatch.setattr(device_memory, "MIB", 1)  # one byte: one member at a time, no features kept
        assert torch.allclose(inferer(members=5, memory=1)(x, network), expected, atol=1e-5)
        two = inferer(members=2, memory=1)(x, network)
        assert torch.allclose(two[:, 4 * K :], expected[:, 4 * K : 6 * K], atol=1e-5)


def certain_outside(x_t, features):
    """Logits of the state where the image is near 0, of the presegmentation elsewhere."""
    here = (features[0].abs() < 0.5).float()
    return here * (2 * x_t + features[1]) + (1 - here) * 60 * features[1]


class Certain(Segmenter):
    """Uncertain where the image is near 0, certain elsewhere."""

    def forward(self, image):
        return super().forward(image) * torch.where(image.abs() < 0.5, 1.0, 60.0)


class TestActiveWindows:
    def scan(self):
        x = torch.full((1, 1, 40, 32), 3.0)
        x[..., 0, 0] = 3.1  # no voxel but this one has the first one's value, so windows are everywhere
        x[..., 5:9, 6:12] = torch.linspace(-0.4, 0.4, 24).view(4, 6)
        return x

    @pytest.mark.parametrize("share", [0.0, 0.3])
    def test_they_are_all_windows_where_the_segmenter_is_certain_outside(self, share):
        network = formula_pair(certain_outside, Certain())
        few = inferer(presegmentation_weight=share)
        everything = inferer(presegmentation_weight=share, windows="all")
        assert torch.allclose(few(self.scan(), network), everything(self.scan(), network), atol=1e-5)
        counted = ran(few, network, self.scan())
        assert 0 < counted["windows_run"] < counted["windows_skipped"]
        assert (
            counted["windows_run"] + counted["windows_skipped"] == ran(everything, network, self.scan())["windows_run"]
        )
        assert counted["denoiser_evaluations"] == 3 * len(STEPS) * counted["windows_run"]
        assert few(self.scan(), network)[0, 2 * K + 1].max() > 0.01  # and there was something to decide

    def test_outside_of_the_content_there_is_background_and_no_window(self):
        x = torch.full((1, 1, 40, 32), -2.0)
        x[..., 5:19, 6:12] = torch.linspace(-0.4, 0.4, 84).view(14, 6)
        network = formula_pair(certain_outside, Certain())
        output = inferer()(MetaTensor(x), network)
        report = output.meta["ensemble_run"][0].as_report()
        assert report["windows_run"] + report["windows_skipped"] == 3  # 14 x 8 voxels, half of a window shared
        outside = torch.ones(40, 32, dtype=torch.bool)
        outside[5:19, 5:13] = False
        assert (output[0, 0][outside] == 1).all()
        assert (output[0, 1:K][:, outside] == 0).all()

    def test_scattered_things_have_windows_of_their_own(self):
        x, options = torch.full((1, 1, 80, 64), 3.0), {"roi": (16, 16), "overlap": 0.25}
        x[..., 0, 0] = 3.1
        for row, column in ((19, 30), (50, 13)):  # astride of even windows
            x[..., row : row + 4, column : column + 3] = torch.linspace(-0.4, 0.4, 12).view(4, 3)
        network = formula_pair(certain_outside, Certain())
        few, everything = inferer(**options), inferer(**options, windows="all")
        assert torch.allclose(few(x, network), everything(x, network), atol=1e-5)
        assert ran(few, network, x)["windows_run"] == 2
        assert few(x, network)[0, 2 * K + 1].max() > 0.01

    def test_nothing_active_is_the_pre_segmentation_in_all_channels(self):
        network, x = formula_pair(certain_outside, Certain()), torch.full((1, 1, 20, 20), 3.0)
        output = inferer()(x, network)[0]
        preseg = output[3 * K : 4 * K]
        assert torch.equal(output[: 2 * K], preseg.repeat(2, 1, 1))
        assert torch.equal(output[4 * K :], preseg.repeat(3, 1, 1))
        assert output[2 * K].max() < 1e-6
        assert torch.equal(output[2 * K + 1 : 3 * K], torch.zeros(K - 1, 20, 20))
        assert ran(inferer(), network, x)["windows_run"] == 0
        assert network.denoiser.denoised == 0

    def test_uncovered_voxels_keep_the_soft_pre_segmentation(self):
        x = torch.full((1, 1, 40, 8), 0.1)  # the segmenter is nowhere certain
        x[..., 0, 0] = 0.11
        x[..., 2:4, :], x[..., 36:38, :] = -0.1, -0.1  # two borders, whose windows leave a gap in the bounding box
        output = inferer((8, 8), uncertainty_threshold=0.9)(x, formula_pair(lambda x_t, features: 3 * x_t))[0]
        preseg, members = output[3 * K : 4 * K], output[4 * K :].unflatten(0, (3, K))
        assert torch.equal(members[:, :, 15:25], preseg[:, 15:25].expand(3, K, 10, 8))
        assert preseg.max() < 0.6
        assert (members[:, :, :5] - preseg[:, :5]).abs().max() > 0.1


class TestMemory:
    @pytest.mark.parametrize(("rule", "at_once"), [(DDIMRule(), 5), (DDIMRule(1.0), 3)])
    def test_as_many_members_as_their_noise_and_sums_fit(self, rule, at_once):
        # 3 classes x 16384 voxels x 4 bytes: a member takes 576 KiB with DDIM, 960 KiB with one field per step
        network = formula_pair()
        batches = []
        network.denoiser.formula = lambda x_t, features: batches.append(len(x_t)) or x_t
        inferer((128, 128), memory=3, member_batch=20, members=7, rule=rule, windows="all")(image(128, 128), network)
        assert batches[0] == at_once

    def test_when_one_member_is_too_much_the_error_says_what_to_do(self):
        def full(x_t, features):
            raise torch.OutOfMemoryError("CUDA out of memory")

        with pytest.raises(UserError, match=r"roi_size: found \[8, 8\].*smaller --roi_size, or --device cpu"):
            inferer()(image(16, 16), formula_pair(full))

    def test_volumes_go_to_the_cpu_when_they_would_fill_the_device(self, monkeypatch, caplog):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (800 * 2**20, 2**30))
        gpu = torch.device("cuda", 0)
        assert volume_device(400 * 2**20, gpu) == gpu
        config = EnsembleConfig(roi_size=[8], time_steps=[], member_batch=10**6)
        assert list(range(0, 250, members_at_once(config, 2**20, gpu))) == [0, 100, 200]
        with caplog.at_level(logging.WARNING):
            assert volume_device(401 * 2**20, gpu) == torch.device("cpu")
        assert caplog.text.count("\n") == 1
        assert "401 MiB" in caplog.text
        assert members_at_once(replace(config, memory=3), 2**20, gpu) == 3
        assert members_at_once(replace(config, memory=3), 2**22, gpu) == 1  # at least one
        assert members_at_once(config, 2**20, torch.device("cpu")) == 256

    def test_bytes_of_a_case_are_those_of_all_frames_and_channels(self, monkeypatch):
        sizes = []
        monkeypatch.setattr(ensemble, "volume_device", lambda size, device: sizes.append(size) or device)
        inferer(fourth_dimension="time")(image(9, 8).repeat(1, 2, 1, 1), formula_pair())
        assert sizes == [4 * 7 * K * 2 * 9 * 8]

    def test_progress_counts_each_step_of_each_member_in_each_window(self, monkeypatch):
        bars, disabled = [], []

        class Bar(ensemble.tqdm):
            def __init__(self, *args, **options):
                disabled.append(options["disable"])
                super().__init__(*args, **options | {"disable": False})
                bars.append(self)

        monkeypatch.setattr(ensemble, "tqdm", Bar)
        network, x = formula_pair(), image(16, 16)
        windows = ran(inferer(windows="all"), network, x)["windows_run"]
        assert windows == 9
        (bar,) = bars
        assert bar.total == bar.n == 3 * 9 * len(STEPS)
        assert not bar.leave
        inferer(progress=True)(x, network)
        assert disabled == [True, None]  # None: shown on a terminal only

    def test_large_results_lie_in_a_file_and_are_the_same(self, monkeypatch, tmp_path):
        x, network = image(16, 16), formula_pair()
        expected = inferer()(x, network)
        monkeypatch.setattr(scratch, "IN_MEMORY", 0)
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        monkeypatch.setattr(scratch.tempfile, "tempdir", None)
        assert torch.equal(inferer()(x, network), expected)
        assert list(tmp_path.iterdir()) == []  # nothing is left, not even while the tensor lives


class TestFrames:
    def test_a_series_is_its_frames_one_by_one_with_the_same_noise(self):
        series, network = torch.cat([image(20, 12, seed=s) for s in range(4)], dim=1), real_pair()
        settings = inferer(fourth_dimension="time")
        together = settings(series, network)
        assert together.shape == (1, 4 * 7 * K, 20, 12)
        for f, part in enumerate(together[0].unflatten(0, (4, -1))):
            assert torch.equal(part, inferer()(series[:, f : f + 1], network)[0])
        assert ran(settings, network, series)["frames"] == 4
