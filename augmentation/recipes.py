"""Which augmentation a clip gets: drawn from hashes of the clip's own path, so that no other clip changes it.

Nothing here needs torch. Resuming, sharding, and adding or removing clips and prompts change only what they touch.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Recipe:
    """How one clip is augmented (Table 2 of the paper)."""

    prompt: str
    ddim_steps: int  # S, steps of the whole reverse process
    t0: float  # in (0, 1], where the clip enters it; 1 is pure noise
    guidance_scale: float  # 1 is no guidance
    eta: float  # in [0, 1], 0 is deterministic DDIM
    seed: int  # of the posterior sample and all noise

    @property
    def evaluations(self) -> int:
        """k = floor(S t0), eq. (1): guided U-Net evaluations of each 10.24 s window."""
        return math.floor(self.ddim_steps * self.t0)

    def key(self, source: str, checkpoint: str, output: str, front_end: int) -> str:
        """SHA-256 of all that determines the augmented clip: its name in the store.

        `source` is the SHA-256 of the source's samples, `checkpoint` the identity of the weights, `output` the output
        stage and `front_end` the version of the code before and after the diffusion.
        """
        whole = asdict(self) | {"source": source, "checkpoint": checkpoint, "output": output, "front_end": front_end}
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


def draw_recipe(
    clip: str,
    view: int,
    prompts: Sequence[str],
    seed: int,
    ddim_steps: tuple[int, int],
    t0: float,
    guidance_scale: float,
    eta: float,
) -> Recipe:
    """The recipe of a clip's augmented view: prompt, S in [ddim_steps], and seed, each uniform and each from a hash.

    A clip takes the prompt whose hash together with its own path is largest (rendezvous hashing): a new prompt is
    taken over by the few clips that like it best, and a removed one is replaced for those clips alone that had it.
    """
    if not prompts:
        raise ValueError("there is no prompt to draw from")
    prompt = max(prompts, key=lambda text: (_draw(seed, clip, view, "prompt", text), text))
    first, last = ddim_steps
    steps = first + _draw(seed, clip, view, "ddim_steps") % (last - first + 1)
    return Recipe(prompt, steps, t0, guidance_scale, eta, _draw(seed, clip, view, "seed") % 2**32)


def _draw(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256(json.dumps(parts).encode()).digest()[:16], "big")
