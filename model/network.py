"""The networks: a masked autoencoder with a projection for pretraining, an identity classifier for fine-tuning.

Sections 2.2 and 2.5.1 of the paper. Shapes, here and in the training code:

    B  clips in the batch         F  frames (320)          M  mel bins (128)
    N  tokens of a clip (512)     V  visible tokens        P  pixels of a patch (80)
    D  width of the encoder       W  width of the decoder  Z  dimensions of the projection (512)
    E  dimensions of an embedding: D, or 8 D where the frequency rows are kept apart

A clip's tokens are the patches of an 8 x 64 grid (frequency x time), frequency first: token = row * 64 + column.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MOST = {"depth": 100, "decoder_depth": 100, "frames": 65_536, "projection": 65_536}  # 4096 of the other sizes
MOST_TOKENS = 8192  # attention's memory grows with the square


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of both networks. The defaults are the paper's where it names them and ViT-Small's elsewhere.

    Raises ValueError naming a size that is no whole number, or beyond what is allowed, or does not fit another.
    """

    mels: int = 128
    frames: int = 320  # of the input: 10.24 s
    patch_mels: int = 16
    patch_frames: int = 5
    width: int = 384
    depth: int = 12
    heads: int = 6
    decoder_width: int = 384
    decoder_depth: int = 12
    decoder_heads: int = 6
    projection: int = 512
    pooling: str = "mean"  # of the tokens into the embedding: mean, or rows

    def __post_init__(self):
        for name, size in vars(self).items():
            if name != "pooling" and not (type(size) is int and 1 <= size <= MOST.get(name, 4096)):
                raise ValueError(f"{name} is {size!r}, allowed are whole numbers from 1 to {MOST.get(name, 4096)}")
        for whole, part in (
            ("mels", "patch_mels"),
            ("frames", "patch_frames"),
            ("width", "heads"),
            ("decoder_width", "decoder_heads"),
        ):
            if getattr(self, whole) % getattr(self, part):
                raise ValueError(f"{whole} {getattr(self, whole)} must be a multiple of {part} {getattr(self, part)}")
        for name in ("width", "decoder_width"):
            if getattr(self, name) % 4:
                raise ValueError(f"{name} {getattr(self, name)} must be a multiple of 4 (sin-cos positions)")
        if self.pooling not in ("mean", "rows"):
            raise ValueError(f"pooling is {self.pooling!r}, allowed are mean and rows")
        if self.tokens > MOST_TOKENS:
            raise ValueError(f"mels, frames and patches make {self.tokens} tokens, at most {MOST_TOKENS} are allowed")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows (frequency) and columns (time) of the token grid."""
        return self.mels // self.patch_mels, self.frames // self.patch_frames

    @property
    def tokens(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def embedding(self) -> int:
        """E, dimensions of a clip's embedding."""
        return self.width * (self.grid[0] if self.pooling == "rows" else 1)

    @property
    def patch_pixels(self) -> int:
        return self.patch_mels * self.patch_frames


def patchify(spectrogram: Tensor, config: NetworkConfig) -> Tensor:
    """Spectrogram (B, F, M) -> patches (B, N, P); a patch lists its pixels mel by mel."""
    rows, columns = config.grid
    x = spectrogram.reshape(-1, columns, config.patch_frames, rows, config.patch_mels)
    x = x.permute(0, 3, 1, 4, 2)  # (B, rows, columns, patch_mels, patch_frames)
    return x.reshape(-1, config.tokens, config.patch_pixels)  # (B, N, P)


def unpatchify(patches: Tensor, config: NetworkConfig) -> Tensor:
    """Patches (B, N, P) -> spectrogram (B, F, M), the inverse of `patchify`."""
    rows, columns = config.grid
    x = patches.reshape(-1, rows, columns, config.patch_mels, config.patch_frames)
    x = x.permute(0, 2, 4, 1, 3)  # (B, columns, patch_frames, rows, patch_mels)
    return x.reshape(-1, config.frames, config.mels)


def sincos_positions(rows: int, columns: int, width: int) -> Tensor:
    """Fixed positions (rows * columns, width): half the width encodes the row, half the column, each as sin and cos.

    On the CPU, also where a network is built without memory for its weights (device meta).
    """

    def one_axis(positions: Tensor) -> Tensor:  # (N,) -> (N, width / 2)
        frequencies = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64, device="cpu") / (width // 4))
        angles = positions.double()[:, None] * frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    row, column = torch.meshgrid(torch.arange(rows, device="cpu"), torch.arange(columns, device="cpu"), indexing="ij")
    return torch.cat([one_axis(row.flatten()), one_axis(column.flatten())], dim=1).float()


def take(x: Tensor, tokens: Tensor) -> Tensor:
    """Rows of x (B, N, C) named by tokens (B, V): (B, V, C)."""
    return x.gather(1, tokens.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(query key^T / sqrt(C)) value over tokens, all (B, heads, N, C)."""
    if query.device.type == "cpu" and query.dtype == torch.bfloat16:
        # here the fused kernel takes 2.5 times as long as the products, which use the CPU's bfloat16 instructions
        return (query * query.shape[-1] ** -0.5 @ key.transpose(-2, -1)).softmax(dim=-1) @ value
    return F.scaled_dot_product_attention(query, key, value)


class Block(nn.Module):
    """Pre-norm transformer block with a GELU perceptron four times as wide, as in ViT."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_output = nn.Linear(width, width)
        self.perceptron_norm = nn.LayerNorm(width)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.query_key_value(self.attention_norm(x))
        qkv = qkv.reshape(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, N, D / heads)
        attended = attention(query, key, value)
        x = x + self.attention_output(attended.transpose(1, 2).reshape(batch, tokens, width))
        return x + self.perceptron(self.perceptron_norm(x))


class Encoder(nn.Module):
    """ViT encoder without a class token; `pool` makes the tokens a clip's embedding."""

    positions: Tensor

    def __init__(self, config: NetworkConfig):
        super().__init__()
        self.config = config
        self.patch_embedding = nn.Linear(config.patch_pixels, config.width)
        self.register_buffer("positions", sincos_positions(*config.grid, config.width), persistent=False)
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)

    def forward(self, patches: Tensor, visible: Tensor | None = None) -> Tensor:
        """Patches (B, N, P), and the numbers of the visible ones (B, V) or None for all -> tokens (B, V, D)."""
        if visible is None:
            x = self.patch_embedding(patches) + self.positions
        else:  # masked patches are dropped before any work is done on them
            x = self.patch_embedding(take(patches, visible)) + self.positions[visible]
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def pool(self, tokens: Tensor, visible: Tensor | None = None) -> Tensor:
        """Tokens (B, V, D), `visible` as in `forward` -> embedding (B, E).

        The paper does not say how. `mean` averages all tokens, which mixes the frequencies; `rows` averages the tokens
        of each frequency row over time and concatenates the rows. A row without a visible token is 0.
        """
        if self.config.pooling == "mean":
            return tokens.mean(dim=1)
        rows, columns = self.config.grid
        if visible is None:
            return tokens.unflatten(1, (rows, columns)).mean(dim=2).flatten(1)  # (B, rows, columns, D) -> (B, rows D)
        cell = visible // columns + rows * torch.arange(len(visible), device=visible.device).unsqueeze(1)  # (B, V)
        sums = tokens.new_zeros(len(visible) * rows, tokens.shape[-1]).index_add(
            0, cell.flatten(), tokens.flatten(0, 1)
        )
        counts = torch.bincount(cell.flatten(), minlength=len(sums)).clamp(min=1)
        return (sums / counts.unsqueeze(1)).reshape(len(visible), -1)  # (B rows, D) -> (B, rows D)


class Decoder(nn.Module):
    """ViT decoder: fills the masked places with one learned token and predicts their pixels."""

    positions: Tensor

    def __init__(self, config: NetworkConfig):
        super().__init__()
        self.embedding = nn.Linear(config.width, config.decoder_width)
        self.mask_token = nn.Parameter(torch.zeros(config.decoder_width))
        self.register_buffer("positions", sincos_positions(*config.grid, config.decoder_width), persistent=False)
        self.blocks = nn.ModuleList(
            Block(config.decoder_width, config.decoder_heads) for _ in range(config.decoder_depth)
        )
        self.norm = nn.LayerNorm(config.decoder_width)
        self.pixels = nn.Linear(config.decoder_width, config.patch_pixels)

    def forward(self, tokens: Tensor, visible: Tensor) -> Tensor:
        """Encoded visible tokens (B, V, D) and their numbers (B, V) -> predicted patches (B, N, P)."""
        seen = self.embedding(tokens)  # (B, V, W)
        x = self.mask_token.to(seen.dtype).expand(len(seen), len(self.positions), -1)  # (B, N, W)
        x = x.scatter(1, visible.unsqueeze(-1).expand_as(seen), seen) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.pixels(self.norm(x))


class Encoded(NamedTuple):
    """What pretraining takes from one view of a batch."""

    embedding: Tensor  # (B, E), of the visible tokens
    projection: Tensor  # (B, Z), not normalised
    predicted: Tensor | None  # (B, N, P), None for a view that is not reconstructed


class RCMAE(nn.Module):
    """The pretraining network: one encoder, projection and decoder, shared by both views."""

    def __init__(self, config: NetworkConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.projection = nn.Linear(config.embedding, config.projection)
        self.decoder = Decoder(config)
        self.apply(initialise)
        nn.init.normal_(self.decoder.mask_token, std=0.02)

    def forward(
        self, patches: Tensor, visible: Tensor, augmented: Tensor, augmented_visible: Tensor, reconstruct_both: bool
    ) -> tuple[Encoded, Encoded]:
        """Both views' patches (B, N, P) and the numbers of their visible tokens (B, V) -> original, augmented."""
        # both views pass the encoder as one batch of 2 B
        visible = torch.cat([visible, augmented_visible])
        tokens = self.encoder(torch.cat([patches, augmented]), visible)  # (2 B, V, D)
        embedding = self.encoder.pool(tokens, visible)
        projection = self.projection(embedding)
        decoded = len(visible) if reconstruct_both else len(patches)
        predicted = self.decoder(tokens[:decoded], visible[:decoded])
        original, second = slice(None, len(patches)), slice(len(patches), None)
        return (
            Encoded(embedding[original], projection[original], predicted[original]),
            Encoded(embedding[second], projection[second], predicted[second] if reconstruct_both else None),
        )

    def embed(self, spectrogram: Tensor) -> Tensor:
        """Embedding (B, E) of unmasked clips, (B, F, M) standardised."""
        return self.encoder.pool(self.encoder(patchify(spectrogram, self.config)))


class Identified(NamedTuple):
    """What the fine-tuned network says of a batch of clips."""

    embedding: Tensor  # (B, E)
    projection: Tensor  # (B, Z), not normalised
    logits: Tensor  # (B, identities)


class IdentityClassifier(nn.Module):
    """The fine-tuned network (section 2.5.2): the pretrained encoder and projection, and a linear classifier."""

    def __init__(self, config: NetworkConfig, identities: int):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.projection = nn.Linear(config.embedding, config.projection)
        self.classifier = nn.Linear(config.embedding, identities)
        self.apply(initialise)

    @classmethod
    def from_pretrained(cls, pretrained: RCMAE, identities: int) -> "IdentityClassifier":
        """A copy of the pretrained encoder and projection under a new, randomly initialised classifier."""
        network = cls(pretrained.config, identities)
        network.encoder.load_state_dict(pretrained.encoder.state_dict())
        network.projection.load_state_dict(pretrained.projection.state_dict())
        return network

    def forward(self, spectrogram: Tensor) -> Identified:
        """Clips (B, F, M), standardised -> embedding, projection, logits."""
        embedding = self.encoder.pool(self.encoder(patchify(spectrogram, self.config)))  # (B, E)
        return Identified(embedding, self.projection(embedding), self.classifier(embedding))


def initialise(module: nn.Module) -> None:
    """ViT's initialisation as in MAE: Xavier-uniform weights, zero biases; layer norms stay as they are."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
