import math
from itertools import pairwise

import pytest
import torch
from torch import nn
from torchdiffeq import odeint

from monai_pdddpm.networks import FIXED_STEP_SOLVERS, SecondOrderODEBlock
from monai_pdddpm.networks.solvers import evaluations

EMBEDDING = 6


class Oscillator(nn.Module):
    """a = -w^2 z - c v: a damped oscillator."""

    def __init__(self, w=2.0, c=0.5):
        super().__init__()
        self.w, self.c, self.calls = w, c, 0

    def forward(self, z, v, scale, shift):
        self.calls += 1
        return -(self.w**2) * z - self.c * v

    def solution(self, z, v, t=1.0):
        decay = self.c / 2
        w = math.sqrt(self.w**2 - decay**2)
        return math.exp(-decay * t) * (z * math.cos(w * t) + (v + decay * z) / w * math.sin(w * t))


class Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, z):
        return self.factor * z


class Constant(nn.Module):
    """An acceleration that is the same everywhere."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, z, v, scale, shift):
        return torch.full_like(v, self.value)


def oscillator(**options):
    block = SecondOrderODEBlock(2, 4, EMBEDDING, groups=2).double()
    block.acceleration, block.velocity = Oscillator(**options), Times(-0.7)
    return block


def alive(spatial_dims=2, seed=0):
    """A block in float64 whose acceleration is not zero, as after training."""
    torch.manual_seed(seed)
    block = SecondOrderODEBlock(spatial_dims, 4, EMBEDDING, 2).double()
    nn.init.normal_(block.acceleration.conv_out.weight, std=0.3)
    return block


def inputs(batch=2, spatial_dims=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(batch, 4, *[5] * spatial_dims, generator=generator, dtype=torch.float64)
    return z, torch.randn(batch, EMBEDDING, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("midpoint", 2), ("rk4", 4)])
def test_order_of_convergence_on_a_damped_oscillator(solver, order):
    block, (z, e) = oscillator(), inputs()
    exact = block.acceleration.solution(z, -0.7 * z)
    errors = [float((block(z, e, solver, steps) - exact).abs().max()) for steps in (32, 64, 128)]
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.15)


def test_one_euler_step_is_a_straight_line():
    # dz/dt is v itself: the acceleration enters z at the second step only.
    z, e = inputs()
    for value in (0.0, 1e6):
        block = oscillator()
        block.acceleration = Constant(value)
        torch.testing.assert_close(block(z, e, "euler", 1), z - 0.7 * z, rtol=0, atol=1e-12)
    # Two steps of h = 1/2: z + v/2, then v + a/2, so z + v + a/4.
    block.acceleration = Constant(3.0)
    torch.testing.assert_close(block(z, e, "euler", 2), z - 0.7 * z + 0.75, rtol=0, atol=1e-12)


@pytest.mark.parametrize("solver", FIXED_STEP_SOLVERS)
@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_our_loop_is_torchdiffeqs(solver, steps):
    block, (z, e) = alive(), inputs()
    scale, shift = block.film(e)[..., None, None].chunk(2, dim=1)

    def field(t, state):
        position, velocity = state
        return velocity, block.acceleration(position, velocity, scale, shift)

    time = torch.tensor([0.0, 1.0], dtype=torch.float64)
    expected = odeint(field, (z, block.velocity(z)), time, method=solver, options={"step_size": 1 / steps})[0][-1]
    found = block(z, e, solver, steps)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)
    if evaluations(solver, steps) > 0:
        assert (found - z - block.velocity(z)).abs().max() > 0.01  # the acceleration did take part


@pytest.mark.parametrize("solver", FIXED_STEP_SOLVERS)
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_a_new_block_is_z_plus_its_initial_velocity(solver, spatial_dims):
    torch.manual_seed(0)
    block = SecondOrderODEBlock(spatial_dims, 4, EMBEDDING, 2).double()
    z, e = inputs(spatial_dims=spatial_dims)
    velocity = block.velocity(z)
    assert velocity.abs().max() > 0.1
    torch.testing.assert_close(block(z, e, solver, 2), z + velocity)


@pytest.mark.parametrize("solver", FIXED_STEP_SOLVERS)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_no_acceleration_is_computed_in_vain(solver, steps):
    block, (z, e) = oscillator(), inputs()
    block(z, e, solver, steps)
    assert block.acceleration.calls == evaluations(solver, steps)


def test_the_acceleration_sees_velocity_and_embedding():
    # Scale and shift come after the norm: a shift by a constant per channel would be cancelled before it.
    acceleration = alive().acceleration
    z, v = inputs(seed=2)[0], inputs(seed=3)[0]
    zero, one = torch.zeros(2, 4, 1, 1).double(), torch.ones(2, 4, 1, 1).double()
    base = acceleration(z, v, zero, zero)
    for other in (acceleration(z, -v, zero, zero), acceleration(z, v, one, zero), acceleration(z, v, zero, one)):
        assert (other - base).abs().mean() > 0.1
    # Scale -1 erases the state, and z and v with it.
    torch.testing.assert_close(acceleration(z, v, -one, one), acceleration(-3 * z, 0 * v, -one, one))


# A convolution's bias before a norm whose groups are a channel wide has no effect; here groups have two channels.
@pytest.mark.parametrize(("solver", "steps"), [("midpoint", 2), ("rk4", 4)])
def test_gradients_reach_everything(solver, steps):
    block, (z, e) = alive(), (x.requires_grad_() for x in inputs())
    output = block(z, e, solver, steps)
    (
        output * torch.randn(output.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    ).sum().backward()
    found = {"z": z.grad, "embedding": e.grad} | {name: p.grad for name, p in block.named_parameters()}
    assert {"z", "embedding", "film.weight", "film.bias", "velocity.conv.conv.weight"} < set(found)
    for name, value in found.items():
        assert value is not None, name
        assert value.abs().max() > 1e-4, name
    for half in found["film.weight"].chunk(2):  # of the scale and of the shift
        assert half.abs().max() > 1e-4
