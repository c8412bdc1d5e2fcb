"""Glow_Aff: the flow's volume against autograd, and likelihoods by hand."""

import math

import pytest
import torch

from peers.glow_aff import Glow, Step


@pytest.fixture
def flow():
    torch.manual_seed(0)
    flow = Glow(identities=3).double()
    for weights in flow.parameters():  # at first the couplings do nothing
        weights.data += 0.1 * torch.randn_like(weights)
    return flow


def log_volume(function, x):
    """Logarithm of the determinant of a map between two arrays of the same size."""
    jacobian = torch.autograd.functional.jacobian(function, x)
    return torch.linalg.slogdet(jacobian.reshape(x.numel(), x.numel())).logabsdet


def test_a_steps_change_of_volume_is_its_jacobians(flow):
    x = torch.randn(1, 4, 3, 2, dtype=torch.float64)
    step = flow.steps[0]
    assert isinstance(step, Step)
    assert step(x)[1].item() == pytest.approx(log_volume(lambda x: step(x)[0], x).item(), abs=1e-9)


def test_the_flows_change_of_volume_is_its_jacobians(flow):
    x = torch.randn(1, 16, 8, dtype=torch.float64)
    parts, volume = flow.latents(x)
    assert [part.shape[1] for part in parts] == [2, 4, 16] and sum(part.numel() for part in parts) == x.numel()
    found = log_volume(lambda x: torch.cat([part.flatten() for part in flow.latents(x)[0]]), x)
    assert volume.item() == pytest.approx(found.item(), abs=1e-8)


def test_an_identity_is_a_gaussian_of_its_own(flow):
    x = torch.randn(2, 32, 8, dtype=torch.float64)
    found = flow(x)
    assert found.shape == (2, 3)
    parts, volume = flow.latents(x)
    for identity in range(3):
        expected = volume.clone()
        for part, affine in zip(parts, flow.affine, strict=True):
            mean, log_scale = affine[identity][:, :, None, None]
            expected += torch.distributions.Normal(mean, log_scale.exp()).log_prob(part).sum(dim=(1, 2, 3))
        torch.testing.assert_close(found[:, identity], expected / (32 * 8))


def test_at_first_it_is_a_rotation_of_a_standard_normal():
    torch.manual_seed(0)
    x = torch.randn(4, 32, 16)
    expected = -(x.square() / 2 + math.log(2 * math.pi) / 2).mean(dim=(1, 2))
    torch.testing.assert_close(Glow(identities=1)(x)[:, 0], expected, atol=0.05, rtol=0)


def test_every_weight_gets_a_gradient(flow):
    flow(torch.randn(4, 32, 8, dtype=torch.float64)).sum().backward()
    assert all(weights.grad.isfinite().all() and weights.grad.any() for weights in flow.parameters())
