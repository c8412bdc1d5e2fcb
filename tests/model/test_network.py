from dataclasses import replace

import torch
from pytest import approx, raises

from model.network import (
    RCMAE,
    Encoder,
    IdentityClassifier,
    NetworkConfig,
    patchify,
    sincos_positions,
    take,
    unpatchify,
)
from tests.model.tiny_training import CONFIG


def views(batch: int = 3, visible: int = 6):
    torch.manual_seed(0)
    spectrograms = torch.randn(2, batch, CONFIG.frames, CONFIG.mels)
    numbers = torch.rand(2, batch, CONFIG.tokens).argsort(dim=-1)[..., :visible]
    return [patchify(one, CONFIG) for one in spectrograms], numbers


def test_paper_sizes():
    paper = NetworkConfig()
    assert paper.grid == (8, 64)
    assert (paper.tokens, paper.patch_pixels) == (512, 80)
    count = sum(parameter.numel() for parameter in Encoder(paper).parameters())
    block = 12 * 384**2 + 13 * 384  # attention 4 d^2, perceptron 8 d^2, biases 9 d, two norms 4 d
    assert count == 12 * block + 80 * 384 + 384 + 2 * 384


def test_patches_are_16_mels_by_5_frames_frequency_first():
    config = NetworkConfig()
    mel, frame = torch.meshgrid(torch.arange(128), torch.arange(320), indexing="ij")
    spectrogram = (1000 * mel + frame).T[None].float()  # (1, F, M)
    patches = patchify(spectrogram, config)
    assert patches.shape == (1, 512, 80)
    third_row_second_column = patches[0, 2 * 64 + 1].reshape(16, 5)
    assert torch.equal(third_row_second_column, (1000 * mel + frame)[32:48, 5:10].float())
    assert torch.equal(unpatchify(patches, config), spectrogram)


def test_positions_differ_by_row_and_column_alone():
    positions = sincos_positions(8, 64, 32).reshape(8, 64, 32)
    assert torch.equal(positions[:, 3, :16], positions[:, 9, :16])  # first half: the row
    assert torch.equal(positions[2, :, 16:], positions[7, :, 16:])  # second half: the column
    assert len(positions.reshape(-1, 32).unique(dim=0)) == 512
    assert positions[5, 0, 0] == approx(torch.sin(torch.tensor(5.0)).item())


def test_encoder_does_not_see_masked_patches():
    (patches, _), (visible, _) = views()
    encoder = Encoder(CONFIG).eval()
    changed = patches.clone()
    masked = torch.ones(patches.shape[:2]).scatter(1, visible, 0).bool()
    changed[masked] = 1e6
    assert torch.equal(encoder(patches, visible), encoder(changed, visible))


def test_encoder_works_on_visible_tokens_only():
    (patches, augmented), (visible, augmented_visible) = views()
    network, seen = RCMAE(CONFIG), []
    network.encoder.blocks[0].register_forward_hook(lambda block, inputs, output: seen.append(inputs[0].shape))
    network(patches, visible, augmented, augmented_visible, False)
    assert seen == [(6, 6, CONFIG.width)]  # both views in one pass, 6 visible tokens each


def test_encoder_with_all_tokens_visible_is_the_unmasked_one_in_any_order():
    (patches, _), _ = views()
    encoder = Encoder(CONFIG).eval()
    order = torch.rand(3, CONFIG.tokens).argsort(dim=1)
    torch.testing.assert_close(encoder(patches, order).mean(1), encoder(patches).mean(1), rtol=1e-5, atol=1e-6)


def test_decoder_puts_visible_tokens_back_in_their_places():
    network = RCMAE(CONFIG).eval()
    tokens, visible = torch.randn(1, 3, CONFIG.width), torch.tensor([[9, 2, 14]])
    inputs = []
    network.decoder.blocks[0].register_forward_hook(lambda block, got, output: inputs.append(got[0]))
    network.decoder(tokens, visible)
    placed = inputs[0][0] - network.decoder.positions
    torch.testing.assert_close(placed[[9, 2, 14]], network.decoder.embedding(tokens)[0])
    others = [token for token in range(CONFIG.tokens) if token not in (9, 2, 14)]
    torch.testing.assert_close(placed[others], network.decoder.mask_token.expand(len(others), -1))


def test_second_view_is_decoded_only_on_request():
    (patches, augmented), (visible, augmented_visible) = views()
    network = RCMAE(CONFIG).eval()
    a, aug = network(patches, visible, augmented, augmented_visible, False)
    assert aug.predicted is None and a.predicted.shape == (3, CONFIG.tokens, CONFIG.patch_pixels)
    b, bug = network(patches, visible, augmented, augmented_visible, True)
    torch.testing.assert_close(a.predicted, b.predicted)
    swapped, _ = network(augmented, augmented_visible, patches, visible, False)
    torch.testing.assert_close(bug.predicted, swapped.predicted)
    torch.testing.assert_close(aug.projection, swapped.projection)


def test_classifier_takes_over_the_pretrained_encoder_and_projection():
    network = RCMAE(CONFIG).eval()
    classifier = IdentityClassifier.from_pretrained(network, 5).eval()
    spectrogram = torch.randn(2, CONFIG.frames, CONFIG.mels)
    embedding, projection, logits = classifier(spectrogram)
    assert torch.equal(embedding, network.embed(spectrogram))
    assert torch.equal(projection, network.projection(embedding))
    assert logits.shape == (2, 5)


ROWS = replace(CONFIG, pooling="rows")


def test_rows_are_averaged_over_time_and_kept_apart():
    rows, columns = ROWS.grid
    tokens = torch.randn(2, ROWS.tokens, ROWS.width)
    pooled = Encoder(ROWS).pool(tokens)
    assert pooled.shape == (2, ROWS.embedding) == (2, rows * ROWS.width)
    for row in range(rows):
        expected = tokens[:, row * columns : (row + 1) * columns].mean(dim=1)
        torch.testing.assert_close(pooled[:, row * ROWS.width : (row + 1) * ROWS.width], expected)


def test_rows_of_visible_tokens_are_those_of_the_tokens_that_are_there():
    rows, columns = ROWS.grid
    encoder, tokens = Encoder(ROWS), torch.randn(3, ROWS.tokens, ROWS.width)
    order = torch.stack([torch.randperm(ROWS.tokens) for _ in range(3)])
    torch.testing.assert_close(encoder.pool(take(tokens, order), order), encoder.pool(tokens))
    visible = order[:, :5]
    pooled = encoder.pool(take(tokens, visible), visible).unflatten(1, (rows, ROWS.width))
    for clip in range(3):
        for row in range(rows):
            there = [number for number in visible[clip].tolist() if number // columns == row]
            expected = tokens[clip, there].mean(dim=0) if there else torch.zeros(ROWS.width)
            torch.testing.assert_close(pooled[clip, row], expected)


def test_gradients_reach_every_visible_token_through_rows():
    tokens = torch.randn(2, 6, ROWS.width, requires_grad=True)
    visible = torch.stack([torch.randperm(ROWS.tokens)[:6] for _ in range(2)])
    Encoder(ROWS).pool(tokens, visible).square().sum().backward()
    assert (tokens.grad.abs().sum(dim=2) > 0).all()


def test_projection_and_classifier_take_the_rows():
    network = RCMAE(ROWS)
    patches, numbers = views()
    a, _ = network(patches[0], numbers[0], patches[1], numbers[1], False)
    assert a.embedding.shape == (3, ROWS.embedding) and a.projection.shape == (3, ROWS.projection)
    said = IdentityClassifier.from_pretrained(network, 4)(torch.randn(2, ROWS.frames, ROWS.mels))
    assert said.embedding.shape == (2, ROWS.embedding) and said.logits.shape == (2, 4)


def test_sizes_that_do_not_fit():
    with raises(ValueError, match="frames 321 must be a multiple of patch_frames 5"):
        NetworkConfig(frames=321)
    with raises(ValueError, match="width 100 must be a multiple of heads 6"):
        NetworkConfig(width=100)
    with raises(ValueError, match="pooling is 'max', allowed are mean and rows"):
        NetworkConfig(pooling="max")
    with raises(ValueError, match="width 18 must be a multiple of 4"):
        NetworkConfig(width=18, heads=6)
