"""Prompts in the paper's form (section 2.1, Table 1), from a written bank or from a language model.

`add <qualities> <noise> produced by <machine> in <kind of factory> as they <activity>`

Whoever writes them, all prompts pass the same checks, and what is refused is kept with its reason.
"""

import hashlib
import itertools
import json
import logging
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from storage.tables import read_table

log = logging.getLogger(__name__)

WORDS = (8, 40)  # fewest and most words of a prompt
SIMILAR = 0.7  # share of content words in common from which two prompts are near-duplicates
KINDS = 12  # of factory, at least, over which a full set of prompts is spread
FORM = re.compile(
    r"add (?P<noise>.+?) (?:produced|created|generated|made) by (?P<machine>.+?) "
    r"in (?:a|an|the) (?P<factory>.+?) (?:as|while) (?:they|it) (?P<activity>.+)"
)
_LINKS = re.compile(r"\b(?:produced|created|generated|made) by\b|\b(?:as|while) (?:they|it)\b")  # one of either
_HUMAN = re.compile(
    r"\b(speech|speak\w*|voices?|vocals?|talk\w*|shout\w*|whisper\w*|conversations?|announcements?|laugh\w*|"
    r"music\w*|songs?|sing|singing|melod\w+|radio|orchestra\w*|guitar\w*|piano|violin\w*|choir)\b"
)
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SCAFFOLD = {
    *("add", "produced", "created", "generated", "made", "by", "a", "an", "the", "and"),
    *("of", "in", "on", "to", "as", "they", "it", "its", "their"),
}
EXAMPLES = (  # shown to language models, and refused when they come back
    "add shrill uneven whistling produced by steam ejectors in a sugar refinery as they draw vapour from the pans",
    "add soft wet slapping produced by tanning drums in a leather tannery as they turn soaked hides",
    "add low pulsing throbbing produced by diesel generators in a power station as they take over the load",
    "add sudden bright pinging produced by cooling plates in a ceramic tile works as they leave the kiln",
)


@dataclass(frozen=True)
class Candidate:
    """A text that may become a prompt."""

    text: str
    id: str = ""  # empty: the place in the set names it


@dataclass
class Prompts:
    """Texts that passed the checks, up to `count`, and those refused, with the reason."""

    count: int
    accepted: list[Candidate] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return len(self.accepted) == self.count

    def offer(self, candidate: Candidate) -> None:
        """Take the candidate if it passes the checks and there is room."""
        if self.complete:
            return
        reason = refusal(candidate.text, [*EXAMPLES, *(prompt.text for prompt in self.accepted)])
        if not reason:
            factories = Counter(factory_of(prompt.text) for prompt in self.accepted)
            quota = math.ceil(self.count / KINDS)
            if factories[factory_of(candidate.text)] >= quota:
                reason = f"{factory_of(candidate.text)} already has its {quota} prompts"
        if reason:
            self.refused.append((candidate.text, reason))
        else:
            self.accepted.append(candidate)

    def why_incomplete(self) -> str:
        """One line for the user: how many passed and what the others were refused for."""
        reasons = Counter(re.sub(r"[:(].*", "", reason).strip() for _, reason in self.refused)
        listed = ", ".join(f"{number} x {reason}" for reason, number in reasons.most_common(4))
        return f"{len(self.accepted)} of {self.count} prompts passed the checks" + (
            f" (refused: {listed})" if listed else ""
        )


def tidy(text: str) -> str:
    """A prompt as it is compared and used: one line, single spaces, small first letter, no quotes, no full stop."""
    text = " ".join(text.split()).strip(" \"'`“”.,;")
    return text[:1].lower() + text[1:]


def factory_of(text: str) -> str:
    """Kind of factory that a prompt of the right form names."""
    match = FORM.fullmatch(text)
    return match["factory"].lower() if match else ""


def refusal(text: str, others: Iterable[str] = ()) -> str | None:
    """Why `text` is no good prompt beside `others`, or None if it is.

    >>> refusal("add noise")
    'too short: 2 words, at least 8'
    """
    words = text.split()
    if len(words) < WORDS[0]:
        return f"too short: {len(words)} words, at least {WORDS[0]}"
    if len(words) > WORDS[1]:
        return f"too long: {len(words)} words, at most {WORDS[1]}"
    if not text.isprintable():
        return "unprintable characters"
    if human := _HUMAN.search(text.lower()):
        return f"speech or music: {human[0]}"
    match = FORM.fullmatch(text)
    if not match or len(_LINKS.findall(text)) != 2 or len(match["factory"].split()) > 6:
        return "form: not `add … produced by … in … as they …`"
    if len(match["noise"].split()) < 2:
        return f"no quality: {match['noise']}"
    content = _content(text)
    counts = Counter(re.findall(r"[a-z]+", text.lower()))
    if repeated := [word for word in content if counts[word] > 2]:
        return f"repetition: {repeated[0]}"
    for other in others:
        others_content = _content(other)
        if content == others_content:
            return f"duplicate: {other}"
        if len(content & others_content) >= SIMILAR * len(content | others_content):
            return f"near-duplicate: {other}"
    return None


def _content(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z]+", text.lower())) - _SCAFFOLD


def read_bank(path: Path) -> list[Candidate]:
    """The written bank: a table with the columns id and text. Raises ValueError naming the line of what is wrong."""
    found: dict[str, Candidate] = {}
    for row in read_table(path, ["id", "text"]):
        name = row["id"]
        if not _ID.fullmatch(name):
            raise row.wrong("id", f"{name!r}", "1 to 64 letters a to z, digits 0 to 9 and . - _ are allowed")
        if name in found:
            raise row.wrong("id", f"{name!r} stands twice", "each prompt needs an id that no other has")
        if not row["text"]:
            raise row.wrong("text", "is empty", "a prompt is needed")
        found[name] = Candidate(row["text"], name)
    return list(found.values())


def from_bank(bank: list[Candidate], seed: int) -> Iterator[Candidate]:
    """All of `bank`, one kind of factory after the other in turn; which comes first is drawn by hashes of `seed`."""

    def draw(text: str) -> bytes:
        return hashlib.sha256(f"{seed}\0{text}".encode()).digest()

    by_factory: dict[str, list[Candidate]] = {}
    for candidate in sorted(bank, key=lambda candidate: draw(candidate.text)):
        by_factory.setdefault(factory_of(candidate.text), []).append(candidate)
    for row in itertools.zip_longest(*(by_factory[factory] for factory in sorted(by_factory, key=draw))):
        yield from (candidate for candidate in row if candidate)


def request(factory: str, count: int) -> str:
    """What a language model is asked."""
    return (
        f"Write {count} different descriptions of noises heard in a {factory}, for a text-to-audio model. Each is one "
        "sentence of exactly this form: add <qualities> <noise> produced by <machine> in a <kind of factory> as they "
        f"<activity>. For example: {EXAMPLES[0]}. Be specific, unambiguous and varied in qualities, noises and "
        "machines; no speech, no music. "
    )


class Endpoint:
    """An OpenAI-compatible chat endpoint. The key, if it needs one, is taken from OPENAI_API_KEY and never shown."""

    BATCH = 10  # prompts asked for at once

    def __init__(self, base_url: str, model: str, timeout: float = 120.0, retries: int = 5):
        """`timeout` (s) is that of a request; one that fails is repeated up to `retries` times, after longer waits."""
        import openai  # here: it takes a second

        key = os.environ.get("OPENAI_API_KEY", "")
        self.client = openai.OpenAI(api_key=key or "none", base_url=base_url, timeout=timeout, max_retries=retries)
        self.headers = {} if key else {"Authorization": openai.Omit()}
        self.base_url, self.model, self.json_mode = base_url, model, True

    def candidates(self, factories: list[str], count: int, seed: int, prompts: Prompts) -> Iterator[Candidate]:
        """Ask for each kind of factory in turn, for at most four times as many prompts as are wanted."""
        for number, factory in zip(range(max(12, 4 * count // self.BATCH)), itertools.cycle(factories)):
            answer = self._ask(
                request(factory, self.BATCH) + 'Answer with JSON only: {"prompts": ["…", …]}', seed + number
            )
            try:
                texts = _texts(answer)
            except ValueError as error:
                prompts.refused.append((answer[:200], f"malformed answer: {error}"))
                log.warning("answer %d of %s is malformed (%s) and left out", number + 1, self.model, error)
                continue
            yield from (Candidate(tidy(text)) for text in texts)

    def _ask(self, content: str, seed: int) -> str:
        import openai

        try:
            answer = self.client.chat.completions.create(
                model=self.model,
                messages=[{"role": "user", "content": content}],
                seed=seed,
                response_format={"type": "json_object"} if self.json_mode else openai.omit,
                extra_headers=self.headers,
            )
        except openai.BadRequestError as error:
            if not self.json_mode:
                raise ValueError(f"{self.base_url} refuses the request: {_one_line(error)}") from None
            self.json_mode = False  # some servers do not know the option; the request asks for JSON anyway
            return self._ask(content, seed)
        except openai.APIConnectionError as error:
            raise ValueError(f"{self.base_url} does not answer ({_one_line(error)}): see prompts.base_url") from None
        except openai.APIStatusError as error:
            status = error.status_code
            if status in (401, 403):
                raise ValueError(f"{self.base_url} refuses the key (status {status}): set OPENAI_API_KEY") from None
            if status == 429 or status >= 500:
                raise ValueError(f"{self.base_url} is busy (status {status}): try again later") from None
            raise ValueError(
                f"{self.base_url} answers with status {status}: see prompts.base_url and prompts.model"
            ) from None
        try:
            return str(answer.choices[0].message.content)
        except (AttributeError, LookupError, TypeError):  # not what a chat endpoint answers with
            return str(answer)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _texts(answer: str) -> list[str]:
    """The prompts in a language model's JSON answer, which may stand in a Markdown fence."""
    answer = re.sub(r"^\s*```(?:json)?\s*|\s*```\s*$", "", answer)
    try:
        content = json.loads(answer)
    except (json.JSONDecodeError, RecursionError):
        raise ValueError("no JSON") from None
    texts = content.get("prompts") if isinstance(content, dict) else content
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError("no list of texts under `prompts`")
    return texts


class LocalModel:
    """An instruct model in a local `transformers` folder, loaded from safetensors, asked for one prompt at a time.

    Small models keep to no JSON and copy a single example: they are given a list to continue, up to the first word of
    the prompt that is wanted, and its line is taken.
    """

    BATCH = 8  # answers sampled at once

    def __init__(self, folder: Path, device: str = "cpu"):
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging as transformers_logging

        if not (folder / "config.json").is_file():
            raise ValueError(
                f"{folder} holds no transformers model (config.json): set prompts.model to a folder that does"
            )
        transformers_logging.disable_progress_bar()
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        except Exception as error:  # what a library raises on a damaged folder is its own affair
            raise ValueError(f"{folder} cannot be loaded: {_one_line(error)}") from None
        self.model = model.to(device).eval()

    def candidates(self, factories: list[str], count: int, seed: int, prompts: Prompts) -> Iterator[Candidate]:
        """Sample for each kind of factory in turn, at most twelve times as many as are wanted."""
        import torch

        torch.manual_seed(seed)
        for _, factory in zip(range(max(4, 12 * count // self.BATCH)), itertools.cycle(factories)):
            ask = "Write a list of different factory noises, one line each. No speech, no music.\n"
            if self.tokenizer.chat_template:
                ask = self.tokenizer.apply_chat_template(
                    [{"role": "user", "content": ask}], tokenize=False, add_generation_prompt=True
                )
            ask += "".join(f"{factory_of(example)}: {example}\n" for example in EXAMPLES) + f"{factory}: add"
            tokens = self.tokenizer(ask, return_tensors="pt", add_special_tokens=False).to(self.model.device)
            with torch.inference_mode():
                answers = self.model.generate(
                    **tokens,
                    do_sample=True,
                    temperature=0.8,
                    top_p=0.95,
                    max_new_tokens=60,
                    num_return_sequences=self.BATCH,
                    pad_token_id=self.tokenizer.pad_token_id or self.tokenizer.eos_token_id or 0,
                )
            asked = self.tokenizer.decode(tokens.input_ids[0], skip_special_tokens=True)
            for answer in self.tokenizer.batch_decode(answers, skip_special_tokens=True):
                yield Candidate(tidy(re.split(r"\n|\. |\.$", "add" + answer[len(asked) :])[0]))


def collect(candidates: Iterable[Candidate], prompts: Prompts) -> None:
    """Offer candidates until the set is complete; what is never looked at is never asked for."""
    for candidate in candidates:
        prompts.offer(candidate)
        if prompts.complete:
            return
