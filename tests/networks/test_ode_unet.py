import pytest
import torch
from torch import nn

from monai_pdddpm.networks import FIXED_STEP_SOLVERS, ODEUNet
from monai_pdddpm.networks.ode_block import SecondOrderODEBlock

CLASSES = 3


def network(seed=0, **options):
    """A small denoiser whose accelerations are not zero, as after training."""
    torch.manual_seed(seed)
    sizes = {"channels": (8, 16), "stem_channels": 8, "embedding_channels": 12, "groups": 4}
    net = ODEUNet(**{"spatial_dims": 2, "image_channels": 2, "num_classes": CLASSES} | sizes | options)
    for module in net.modules():
        if isinstance(module, SecondOrderODEBlock):
            nn.init.normal_(module.acceleration.conv_out.weight, std=0.2)
    return net


def inputs(batch=2, spatial_dims=2, size=8, seed=1):
    generator = torch.Generator().manual_seed(seed)
    shape = [size] * spatial_dims
    x_t = torch.randn(batch, CLASSES, *shape, generator=generator)
    image = torch.randn(batch, 2, *shape, generator=generator)
    return x_t, torch.randint(1000, (batch,), generator=generator), image


def difference(a, b):
    return float((a - b).detach().abs().max())


def assert_same(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("channels", [(8,), (8, 16), (8, 12, 16)])
def test_sizes_and_where_each_level_works(spatial_dims, stride, channels):
    net = network(spatial_dims=spatial_dims, stride=stride, channels=channels)
    assert net.divisor == stride * 2 ** (len(channels) - 1)
    widths = range(2, 2 + spatial_dims)
    shape = [net.divisor * n for n in widths]
    x_t, image = torch.randn(1, CLASSES, *shape), torch.randn(1, 2, *shape)
    seen = []
    for module in net.modules():
        if isinstance(module, SecondOrderODEBlock):
            module.register_forward_hook(lambda _, args, output: seen.append(tuple(output.shape[1:])))
    features = net.encode(image)
    levels = [(width, *(n // (stride * 2**i) for n in shape)) for i, width in enumerate(channels)]
    assert [tuple(f.shape[1:]) for f in features] == [(8, *shape), *levels]
    assert net.denoise(x_t, torch.tensor([5]), features).shape == (1, CLASSES, *shape)
    assert seen == [*levels, *levels[-2::-1]]  # down, the bottom, and up again


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_what_changes_stays_where_it_was(spatial_dims, stride):
    # No flip, shift or swapped axes on any way through the network.
    net, size = network(spatial_dims=spatial_dims, stride=stride), 16
    x_t, t, image = inputs(1, spatial_dims, size)
    place = (4, 11, 7)[:spatial_dims]
    base = net(x_t, t, image)
    for changed in (x_t, image):
        changed[(0, 0, *place)] += 100
        moved = (net(x_t, t, image) - base).abs().sum(dim=1)[0]
        peak = [int(i) for i in torch.unravel_index(moved.argmax(), moved.shape)]
        assert all(abs(found - p) <= 3 for found, p in zip(peak, place, strict=True)), peak
        changed[(0, 0, *place)] -= 100


def test_upsampling_repeats_voxels_or_draws_lines_between_them():
    # The head only sums, so that the output is what comes up from the first level.
    x_t, t, image = inputs(1, spatial_dims=3)
    for upsampling, mode in (("nearest", "nearest"), ("linear", "trilinear")):
        net = network(spatial_dims=3, channels=(8,), upsampling=upsampling)
        coarse = []
        net.to_head.register_forward_hook(lambda _, args, output, coarse=coarse: coarse.append(output))
        net.head = nn.Identity()
        features = [torch.zeros_like(net.encode(image)[0]), *net.encode(image)[1:]]
        found = net.denoise(x_t, t, features)
        assert torch.equal(found, nn.functional.interpolate(coarse[0], scale_factor=2, mode=mode))
    with pytest.raises(ValueError, match="upsampling: found 'cubic'"):
        network(upsampling="cubic")


def test_the_output_depends_on_state_time_and_image():
    net = network()
    x_t, t, image = inputs()
    base = net(x_t, t, image)
    assert difference(net(-x_t, t, image), base) > 0.01
    assert difference(net(x_t, t, -image), base) > 0.01
    assert difference(net(x_t, t + 300, image), base) > 1e-3
    assert torch.equal(net(x_t, t, image), base)
    assert_same(net(x_t, t.float(), image), base)


def test_default_widths():
    net = ODEUNet(2, 1, CLASSES)
    assert [f.shape[1] for f in net.encode(torch.zeros(1, 1, 8, 8))] == [16, 32, 64, 128]
    assert net.embed[0].weight.shape == (128, 128)


def test_a_new_network_does_not_see_the_time_and_one_euler_step_never_would():
    x_t, t, image = inputs()
    net = ODEUNet(2, 2, CLASSES, channels=(8, 16), stem_channels=8, embedding_channels=12, groups=4)
    assert torch.equal(net(x_t, t, image), net(x_t, t + 300, image))
    net = network()
    features = net.encode(image)
    assert torch.equal(net.denoise(x_t, t, features, "euler", 1), net.denoise(x_t, t + 300, features, "euler", 1))
    with pytest.raises(ValueError, match="solver_steps: found 1 with solver='euler'"):
        network(solver="euler")


def test_every_weight_has_a_gradient():
    net = network()
    x_t, t, image = inputs()
    x_t.requires_grad_()
    (net(x_t, t, image) * torch.randn_like(x_t)).sum().backward()
    assert x_t.grad.abs().max() > 0
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    for layer in (0, 2):
        assert net.embed[layer].weight.grad.abs().max() > 1e-3


def test_the_features_of_every_resolution_take_part():
    net = network(channels=(8, 12, 16))
    x_t, t, image = inputs()
    features = net.encode(image)
    base = net.denoise(x_t, t, features)
    assert len(features) == 4
    for i in range(4):
        without = [torch.zeros_like(f) if i == j else f for j, f in enumerate(features)]
        assert difference(net.denoise(x_t, t, without), base) > 1e-3, i


def test_features_of_one_image_serve_many_members():
    net = network()
    x_t, t, image = inputs(4)
    features = net.encode(image[:1])
    repeated = [f.repeat(4, 1, 1, 1) for f in features]
    assert_same(net.denoise(x_t, t[:1], features), net.denoise(x_t, t[:1].repeat(4), repeated))


def test_a_case_does_not_depend_on_who_shares_the_batch():
    net = network(solver="midpoint")
    x_t, t, image = inputs(3)
    x_t[1:] *= 20
    together = net(x_t, t, image)
    for i in range(3):
        assert_same(together[i : i + 1], net(x_t[i : i + 1], t[i : i + 1], image[i : i + 1]))


@pytest.mark.parametrize("solver", FIXED_STEP_SOLVERS)
def test_solver_and_steps_are_chosen_per_call(solver):
    x_t, t, image = inputs()
    default = network()
    features = default.encode(image)
    found = default.denoise(x_t, t, features, solver, 3)
    assert torch.equal(found, network(solver=solver, solver_steps=3)(x_t, t, image))
    assert difference(found, default(x_t, t, image)) > 1e-4
    # Either alone, the other being the network's own.
    if solver != "euler":  # with the default's one step no network is made with it
        assert torch.equal(default.denoise(x_t, t, features, solver), network(solver=solver)(x_t, t, image))
    assert torch.equal(default.denoise(x_t, t, features, "", 3), network(solver_steps=3)(x_t, t, image))
    own = network(solver_steps=3)
    assert torch.equal(own.denoise(x_t, t, features), own(x_t, t, image))
    assert torch.equal(own.denoise(x_t, t, features, "", 1), default(x_t, t, image))


def test_the_presegmentation_enters_as_channels_and_is_required():
    net = network(presegmentation_channels=CLASSES)
    x_t, t, image = inputs()
    presegmentation = torch.randn_like(x_t)
    with pytest.raises(ValueError, match=r"^presegmentation: "):
        net(x_t, t, image)
    with pytest.raises(ValueError, match=r"^presegmentation: "):
        net.encode(image)
    found = net(x_t, t, image, presegmentation)
    assert torch.equal(net.denoise(x_t, t, net.encode(image, presegmentation)), found)
    assert difference(net(x_t, t, image, -presegmentation), found) > 0.01
    # As channels after the image's.
    assert torch.equal(
        net.encoder(torch.cat([image, presegmentation], dim=1))[0], net.encode(image, presegmentation)[0]
    )
    # A network without presegmentation channels ignores it.
    plain = network()
    assert torch.equal(plain(x_t, t, image, presegmentation), plain(x_t, t, image))


@pytest.mark.parametrize("options", [{}, {"stride": 1, "solver": "rk4", "presegmentation_channels": CLASSES}])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_torchscript_gives_the_same(spatial_dims, options):
    net = network(spatial_dims=spatial_dims, **options).eval()
    scripted = torch.jit.script(net)
    x_t, t, image = inputs(spatial_dims=spatial_dims)
    presegmentation = torch.randn_like(x_t) if options else None
    with torch.no_grad():
        for _ in range(3):  # the second and third call run optimised graphs
            assert_same(scripted(x_t, t, image, presegmentation), net(x_t, t, image, presegmentation))
        features, theirs = net.encode(image, presegmentation), scripted.encode(image, presegmentation)
        for mine, other in zip(features, theirs, strict=True):
            assert_same(other, mine)
        assert_same(scripted.denoise(x_t, t[:1], theirs), net.denoise(x_t, t[:1], features))
        for solver, steps in (("euler", 2), ("midpoint", 3), ("rk4", 1)):
            expected = net.denoise(x_t, t, features, solver, steps)
            assert_same(scripted.denoise(x_t, t, theirs, solver, steps), expected)


def test_bfloat16_is_close_and_keeps_the_states_in_float32():
    net = network(solver="rk4", channels=(8, 8, 16))
    x_t, t, image = inputs()
    states = []
    for module in net.modules():
        if isinstance(module, SecondOrderODEBlock):
            module.register_forward_pre_hook(lambda _, args: states.append(args[0].dtype))
            module.acceleration.register_forward_pre_hook(lambda _, args: states.extend(a.dtype for a in args[:2]))
            module.register_forward_hook(lambda _, args, output: states.append(output.dtype))
    convolved = []
    net.inlet.register_forward_hook(lambda _, args, output: convolved.append(output.dtype))
    expected = net(x_t, t, image)
    states.clear()
    convolved.clear()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = net(x_t, t, image)
    assert convolved == [torch.bfloat16]
    assert len(states) > 5 * 6
    assert set(states) == {torch.float32}
    scale = float(expected.detach().abs().max())
    assert 0 < difference(found.float(), expected) < 0.05 * scale
    found.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_a_large_time_keeps_its_meaning_in_bfloat16():
    # In bfloat16 the numbers 897 and 898 are one, so the embedding has to be made of the time as it is.
    net = network()
    x_t, _, image = inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = net.encode(image)
        outputs = [net.denoise(x_t, torch.tensor([t]), features).float() for t in (897, 898)]
    assert difference(*outputs) > 1e-3


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"channels": (8, 18)}, "channels"),
        ({"stem_channels": 6}, "channels"),
        ({"stride": 3}, "stride"),
        ({"stride": 0}, "stride"),
        ({"solver": "heun"}, "solver"),
        ({"solver": ""}, "solver"),
        ({"solver_steps": 0}, "solver_steps"),
    ],
)
def test_wrong_arguments_are_named(options, name):
    with pytest.raises(ValueError, match=rf"^{name}: "):
        network(**options)
