import json
import logging

import pytest
import torch

from model.checkpoints import load_model, load_state, restore, save_model, save_state, training_state
from model.network import RCMAE, IdentityClassifier
from tests.model.tiny_training import CONFIG


@pytest.mark.parametrize("kind", [RCMAE, IdentityClassifier])
def test_a_model_comes_back_with_all_that_belongs_to_it(tmp_path, kind):
    network = RCMAE(CONFIG) if kind is RCMAE else IdentityClassifier(CONFIG, 3)
    saved = {"mean": -31.25, "std": 7.5, "logmel": {"n_mels": 16}, "identities": ["fan/id_00", "b", "ü"]}
    save_model(tmp_path / "model", network, saved)
    loaded, config = load_model(tmp_path / "model", kind)
    assert type(loaded) is kind and not loaded.training
    assert loaded.config == CONFIG
    assert saved.items() <= config.items()
    for name, tensor in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("kind", [RCMAE, IdentityClassifier])
def test_loading_draws_no_random_numbers_and_leaves_nothing_without_memory(tmp_path, kind):
    network = RCMAE(CONFIG) if kind is RCMAE else IdentityClassifier(CONFIG, 3)
    save_model(tmp_path, network, {"identities": ["a", "b", "c"]})
    before = torch.random.get_rng_state()
    loaded, _ = load_model(tmp_path, kind)
    assert torch.equal(torch.random.get_rng_state(), before)
    (tmp_path / "model.safetensors").write_bytes(b"overwritten while the network is in use")
    for tensors in ("named_parameters", "named_buffers"):
        expected = dict(getattr(network, tensors)())
        assert dict(getattr(loaded, tensors)()).keys() == expected.keys()
        for name, tensor in getattr(loaded, tensors)():
            assert torch.equal(tensor, expected[name]), name
            assert tensor.requires_grad == expected[name].requires_grad


def change(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_damaged_or_foreign_model_is_one_line(tmp_path):
    def fresh():
        save_model(tmp_path, RCMAE(CONFIG), {})

    def message(expected=RCMAE) -> str:
        with pytest.raises(ValueError) as caught:
            load_model(tmp_path, expected)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    fresh()
    change(tmp_path, format=99)
    assert "has format 99, this version reads 1" in message()
    fresh()
    change(tmp_path, network="Other")
    assert "holds the network Other, not RCMAE" in message()
    fresh()
    change(tmp_path, sizes={"depths": 3})
    assert "is not a model's config" in message()
    fresh()
    (tmp_path / "config.json").write_text('{"format": 1')
    assert "config.json is damaged" in message()
    fresh()
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    assert "model.safetensors is damaged" in message()
    save_model(tmp_path, IdentityClassifier(CONFIG, 2), {"identities": ["a", "b"]})
    change(tmp_path, identities=["a", "b", "c"])
    assert "model.safetensors is damaged or of another network" in message(IdentityClassifier)
    assert "holds the network IdentityClassifier, not RCMAE" in message()
    with pytest.raises(OSError, match="nowhere"):
        load_model(tmp_path / "nowhere", RCMAE)


def stepped(seed: int = 0):
    torch.manual_seed(seed)
    network = IdentityClassifier(CONFIG, 3)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(2):
        network(torch.randn(2, CONFIG.frames, CONFIG.mels)).logits.square().sum().backward()
        optimizer.step()
    return network, optimizer


def test_a_training_state_restores_weights_and_optimiser_to_the_bit(tmp_path):
    network, optimizer = stepped()
    save_state(tmp_path, 2, training_state(network, optimizer), {"sums": {"loss": 0.1}, "history": [{"epoch": 1}]})
    other, other_optimizer = stepped(seed=1)
    tensors, about = load_state(tmp_path)
    restore(other, other_optimizer, tensors)
    assert (about["step"], about["sums"], about["history"]) == (2, {"loss": 0.1}, [{"epoch": 1}])
    x = torch.randn(2, CONFIG.frames, CONFIG.mels)
    for one, its in ((network, optimizer), (other, other_optimizer)):
        its.zero_grad()
        one(x).logits.square().sum().backward()
        its.step()
    for name, tensor in network.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name


def test_only_the_newest_two_states_stay(tmp_path):
    for step in (1, 5, 12):
        save_state(tmp_path, step, {"x": torch.ones(1)}, {})
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["step_0000000005.safetensors", "step_0000000012.safetensors"]


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "format"])
def test_a_damaged_state_falls_back_to_the_one_before_and_says_so(tmp_path, caplog, damage):
    for step in (1, 2):
        save_state(tmp_path, step, {"x": torch.full((100,), float(step))}, {})
    newest = tmp_path / "step_0000000002.safetensors"
    content = newest.read_bytes()
    if damage == "cut":
        newest.write_bytes(content[:-40])
    elif damage == "flipped":
        newest.write_bytes(content[:-40] + bytes([content[-40] ^ 1]) + content[-39:])
    elif damage == "empty":
        newest.write_bytes(b"")
    else:
        newest.write_bytes(content.replace(b'\\"format\\": 1', b'\\"format\\": 7'))
    with caplog.at_level(logging.WARNING):
        tensors, about = load_state(tmp_path)
    assert about["step"] == 1 and tensors["x"][0] == 1
    assert len(caplog.records) == 1
    assert "falling back to the one before" in caplog.text and newest.name in caplog.text


def test_no_state_at_all(tmp_path):
    assert load_state(tmp_path / "nowhere") is None
    (tmp_path / "step_0000000001.safetensors").write_bytes(b"x")
    assert load_state(tmp_path) is None


def test_a_state_of_another_network_is_one_line(tmp_path):
    network, optimizer = stepped()
    with pytest.raises(ValueError, match="the checkpoint is of another network") as caught:
        restore(IdentityClassifier(CONFIG, 7), optimizer, training_state(network, optimizer))
    assert "\n" not in str(caught.value)
