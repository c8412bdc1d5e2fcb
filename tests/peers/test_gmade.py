"""GMADE: what each frame may depend on, and that its mixtures are densities."""

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, Normal

from peers.gmade import FRAMES, ORDER, GroupMade


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = GroupMade(mels=3)
    for weights in network.parameters():  # far from the beginning, where little depends on anything
        torch.nn.init.normal_(weights, std=0.1)
    return network


def test_a_frame_depends_on_those_before_it_in_the_order_and_on_all_of_them(network):
    frames = torch.randn(1, FRAMES, 3)
    jacobian = torch.autograd.functional.jacobian(lambda x: network.mixtures(x)[0].sum(dim=(0, 2, 3)), frames)
    depends = jacobian[:, 0].abs().sum(-1) > 0  # (of frame, on frame)
    for frame in range(FRAMES):
        before = ORDER[: ORDER.index(frame)]
        assert depends[frame].nonzero().flatten().tolist() == sorted(before)
    assert ORDER[-1] == 2  # the middle frame, given all others


def test_every_conditional_density_integrates_to_one(network):
    """Frame by frame in their order, so that the product of all of them does."""
    grid = torch.linspace(-40, 40, 8001)
    frames = torch.randn(1, FRAMES, 3).expand(len(grid), -1, -1).clone()
    with torch.no_grad():
        for frame in ORDER:
            own = frames.clone()
            own[:, frame] = grid[:, None]  # what it depends on stays as it is
            density = torch.exp(-network(own)[:, frame])  # (grid, mels)
            assert torch.trapezoid(density.double(), grid.double(), dim=0) == pytest.approx([1, 1, 1], abs=1e-3)


def test_the_likelihood_is_that_of_the_mixtures(network):
    frames = torch.randn(4, FRAMES, 3)
    means, scales, weights = network.mixtures(frames)
    mixture = MixtureSameFamily(Categorical(logits=weights), Normal(means, scales.exp()))
    torch.testing.assert_close(network(frames), -mixture.log_prob(frames))


def test_a_gradient_step_lowers_the_loss():
    torch.manual_seed(0)
    network, frames = GroupMade(mels=4), torch.randn(64, FRAMES, 4)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    before = network(frames).mean()
    before.backward()
    optimizer.step()
    assert network(frames).mean() < before
