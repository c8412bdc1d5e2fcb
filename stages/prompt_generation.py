"""Write the prompts of the diffusion augmentation: from the bank that ships here, or asked of a language model."""

import csv
import logging
from pathlib import Path

from augmentation.prompts import Endpoint, LocalModel, Prompts, collect, factory_of, from_bank, read_bank
from stages.command import main
from stages.params import Declared
from stages.paths import PROMPTS
from storage.files import whole_file

BANK = Path("corpora/prompts.csv")


def run(params: Declared, bank: Path = BANK, out: Path = PROMPTS) -> None:
    """Write `out`/prompts.csv (id, factory, text, provider, model, seed) and `out`/refused.csv (text, reason).

    Raises ValueError, after writing what was refused, if fewer than prompts.count pass the checks.
    """
    wanted = params.prompts
    written = read_bank(bank)
    prompts = Prompts(wanted.count)
    if wanted.provider == "bank":
        if wanted.count > len(written):
            raise ValueError(f"prompts.count is {wanted.count}, the bank has {len(written)} prompts")
        candidates = from_bank(written, wanted.seed)
    else:
        language_model = (
            Endpoint(wanted.base_url, wanted.model) if wanted.provider == "openai" else LocalModel(Path(wanted.model))
        )
        factories = list(dict.fromkeys(factory_of(prompt.text) for prompt in from_bank(written, wanted.seed)))
        candidates = language_model.candidates(factories, wanted.count, wanted.seed, prompts)
    out.mkdir(parents=True, exist_ok=True)
    try:
        collect(candidates, prompts)
    finally:  # an endpoint that gives up does not take what it answered with it
        _write(out / "refused.csv", ["text", "reason"], prompts.refused)
    if not prompts.complete:
        raise ValueError(f"{prompts.why_incomplete()}: see {out / 'refused.csv'}, or ask for fewer with prompts.count")
    names = [prompt.id or f"{wanted.provider}-{number:03d}" for number, prompt in enumerate(prompts.accepted, 1)]
    rows = [
        (name, factory_of(prompt.text), prompt.text, wanted.provider, wanted.model, wanted.seed)
        for name, prompt in zip(names, prompts.accepted, strict=True)
    ]
    _write(out / "prompts.csv", ["id", "factory", "text", "provider", "model", "seed"], rows)
    kinds = len({factory for _, factory, *_ in rows})
    logging.info("%d prompts over %d kinds of factory, %d refused", len(rows), kinds, len(prompts.refused))


def _write(path: Path, header: list[str], rows: list[tuple]) -> None:
    with whole_file(path) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *sorted(rows)])


if __name__ == "__main__":
    main(run, "prompt-generation")
