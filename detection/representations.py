"""What the back-ends see of a window of sound: the networks' outputs, and statistics of its log-mel spectrogram."""

import torch
from torch import Tensor, nn

from audio.scale import Scale
from detection.statistics import ModulationStatistics, MomentStatistics
from model.network import RCMAE, IdentityClassifier

BATCH = 16  # windows that pass the networks at once


class Representations(nn.Module):
    """From windows (B, F, M) in dB to the representations by name, each (B, d):

    - `pretrained` and `finetuned`, the embeddings of the two networks,
    - `logits` of the fine-tuned network, a column a class,
    - `moments` and `modulation`, see `detection.statistics`.

    A detector of a single machine has no fine-tuned network: `finetuned` and `logits` are then left out.
    """

    def __init__(self, pretrained: RCMAE, classifier: IdentityClassifier | None, scale: Scale):
        super().__init__()
        self.pretrained, self.classifier, self.scale = pretrained, classifier, scale
        self.frames = pretrained.config.frames
        self.moments, self.modulation = MomentStatistics(), ModulationStatistics(self.frames)

    def forward(self, windows: Tensor) -> dict[str, Tensor]:
        found = {"pretrained": self.pretrained.embed(self.scale(windows))}
        if self.classifier is not None:
            identified = self.classifier(self.scale(windows))
            found |= {"finetuned": identified.embedding, "logits": identified.logits}
        spectrogram = self.scale.without_level(windows)
        return found | {"moments": self.moments(spectrogram), "modulation": self.modulation(spectrogram)}

    @torch.inference_mode()
    def of(self, windows: Tensor) -> dict[str, Tensor]:
        """The representations of any number of windows (W, F, M), BATCH at a time, on the CPU."""
        device = next(self.parameters()).device
        parts = [self(batch.to(device)) for batch in windows.split(BATCH)]
        return {name: torch.cat([part[name].cpu() for part in parts]) for name in parts[0]}
