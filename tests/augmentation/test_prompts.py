"""Prompts: the bank, the checks, and language models behind an endpoint or in a folder."""

import json
import logging
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from augmentation.nano_audioldm.families import FAMILIES
from augmentation.noises import family_of
from augmentation.prompts import (
    EXAMPLES,
    FORM,
    Candidate,
    Endpoint,
    LocalModel,
    Prompts,
    collect,
    factory_of,
    from_bank,
    read_bank,
    refusal,
    tidy,
)
from tests.conftest import ROOT

BANK = read_bank(ROOT / "corpora" / "prompts.csv")
GOOD = "add rough grinding produced by stone saws in a marble yard as they cut slabs"


def good(number: int, factory: str = "toy factory") -> str:
    words = f"noun{'abcdefghij'[number % 10]}{'klmnopqrst'[number // 10 % 10]}"
    return f"add harsh {words} produced by {words}ers in a {factory} as they make {words}ery"


class TestBank:
    def test_it_is_large_and_spread(self):
        assert len(BANK) >= 120
        kinds = Counter(factory_of(one.text) for one in BANK)
        assert len(kinds) >= 12
        assert max(kinds.values()) <= 10
        assert len({one.id for one in BANK}) == len(BANK)

    def test_every_prompt_passes_the_checks_it_sets_for_others(self):
        prompts = Prompts(len(BANK))
        collect(BANK, prompts)
        assert prompts.refused == []
        assert prompts.complete

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("id,factory\na,b\n", "line 1: no column text; it has id, factory"),
            ("id,text\na-1,x\na-1,y\n", "line 3, column id: 'a-1' stands twice; each prompt needs an id that no other"),
            ("id,text\na-\u0661,x\n", "line 2, column id: 'a-\u0661'; 1 to 64 letters a to z, digits 0 to 9 and"),
            ("id,text\na-1,\n", "line 2, column text: is empty; a prompt is needed"),
            ("id,text\na-1\n", "line 2: 1 cells for 2 columns; none may be left out"),
        ],
    )
    def test_what_is_wrong_with_a_bank_is_named_with_its_line(self, tmp_path, text, message):
        (tmp_path / "bank.csv").write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=rf"bank\.csv, {message}"):
            read_bank(tmp_path / "bank.csv")

    def test_a_bank_that_a_spreadsheet_saved(self, tmp_path):
        rows = "".join(f"{one.id};{one.text}\r\n" for one in BANK)
        (tmp_path / "bank.csv").write_text(f"ID;Text\r\n{rows}", encoding="utf-8-sig", newline="")
        assert read_bank(tmp_path / "bank.csv") == BANK

    def test_every_prompt_is_of_a_family_that_the_small_checkpoint_knows(self):
        families = Counter(family_of(one.text) for one in BANK)
        assert set(families) == set(FAMILIES)
        assert min(families.values()) >= 5

    def test_it_is_of_the_papers_form(self):
        for one in BANK:
            assert FORM.fullmatch(one.text), one.text
            assert " produced by " in one.text
            assert " as they " in one.text

    def test_a_part_of_it_is_spread_and_drawn_by_the_seed(self):
        drawn = []
        for seed in (0, 0, 1):
            prompts = Prompts(60)
            collect(from_bank(BANK, seed), prompts)
            drawn.append({one.text for one in prompts.accepted})
            assert set(Counter(map(factory_of, drawn[-1])).values()) == {3}  # 60 over 20 kinds
        assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (GOOD, None),
        (GOOD.replace("as they", "while it").replace("produced", "generated"), None),
        ("add rough grinding produced by saws", "too short"),
        (GOOD + " of marble" * 15, "too long"),
        ("please " + GOOD, "form"),
        (GOOD.replace(" as they cut slabs", " for kitchens and for bathrooms"), "form"),
        (GOOD + " as they turn", "form"),
        (GOOD.replace("marble yard", "yard of a very old marble works"), "form"),
        (GOOD.replace("rough grinding", "grinding"), "no quality"),
        (GOOD.replace("rough grinding", "rough rough rough grinding"), "repetition: rough"),
        (GOOD.replace("rough grinding", "loud voices"), "speech or music: voices"),
        (GOOD.replace("stone saws", "a singing worker"), "speech or music: singing"),
        (GOOD.replace("stone saws", "radios and a radio"), "speech or music: radio"),
        (GOOD.replace("rough", "rou\x00gh"), "unprintable"),
    ],
)
def test_checks(text, reason):
    found = refusal(text)
    assert (found is None) if reason is None else found.startswith(reason)


def test_duplicates_and_near_duplicates():
    assert refusal(GOOD, [GOOD.replace("in a", "in the")]).startswith("duplicate")
    assert refusal(GOOD.replace("rough", "coarse"), [GOOD]).startswith("near-duplicate")
    assert (
        refusal(GOOD.replace("rough", "coarse").replace("marble yard", "tile works").replace("slabs", "edges"), [GOOD])
        is None
    )


def test_no_factory_takes_more_than_its_share():
    prompts = Prompts(24)
    collect([Candidate(good(number)) for number in range(5)], prompts)
    assert len(prompts.accepted) == 2
    assert [reason for _, reason in prompts.refused] == ["toy factory already has its 2 prompts"] * 3
    assert prompts.why_incomplete().startswith("2 of 24 prompts passed the checks (refused: 3 x toy factory")


def test_tidy():
    assert tidy('  "Add rough\n  grinding."  ') == "add rough grinding"


class Server:
    """A chat endpoint on loopback that gives the `answers` one after the other, the last one for ever.

    An answer is a status and a text, or a function of the number of the request.
    """

    def __init__(self, *answers):
        self.requests = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                number = len(outer.requests)
                outer.requests.append((self.path, dict(self.headers), body))
                answer = answers[min(number, len(answers) - 1)]
                status, text = answer(number) if callable(answer) else answer
                try:
                    self.send_response(status)
                    self.send_header("Content-Type", "application/json" if text[:1] in "{[" else "text/html")
                    self.send_header("retry-after-ms", "1")
                    self.end_headers()
                    self.wfile.write(text.encode())
                except BrokenPipeError:
                    pass  # the client's time was out

            def log_message(self, *_):
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def chat(content: str) -> tuple[int, str]:
    return 200, json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]})


def ten(number: int) -> tuple[int, str]:
    texts = [good(10 * number + one, f"works {number}{one}") for one in range(10)]
    return chat(json.dumps({"prompts": texts}))


def ask(server: Server, count: int = 10, **options) -> Prompts:
    prompts = Prompts(count)
    endpoint = Endpoint(server.url, "some-model", **options)
    collect(endpoint.candidates(["toy factory", "brewery"], count, 7, prompts), prompts)
    return prompts


class TestEndpoint:
    def test_it_asks_for_json_with_the_key_of_the_environment(self, monkeypatch, caplog):
        monkeypatch.setenv("OPENAI_API_KEY", "sesame")
        caplog.set_level(logging.DEBUG)
        with Server(ten) as server:
            prompts = ask(server, 14)
        assert prompts.complete
        assert len(server.requests) == 2
        path, headers, body = server.requests[0]
        assert path == "/v1/chat/completions"
        assert headers["Authorization"] == "Bearer sesame"
        assert body["model"] == "some-model"
        assert body["response_format"] == {"type": "json_object"}
        assert "JSON" in body["messages"][0]["content"]
        assert "toy factory" in body["messages"][0]["content"]
        assert "brewery" in server.requests[1][2]["messages"][0]["content"]
        assert [one[2]["seed"] for one in server.requests] == [7, 8]
        assert "sesame" not in caplog.text

    def test_it_needs_no_key(self, monkeypatch):
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        with Server(ten) as server:
            assert ask(server).complete
        assert "Authorization" not in server.requests[0][1]

    @pytest.mark.parametrize("status", [429, 500, 503])
    def test_it_asks_a_busy_endpoint_again(self, status):
        with Server((status, "later"), (status, "later"), ten) as server:
            assert ask(server).complete
        assert len(server.requests) == 3

    def test_it_gives_up_with_one_line(self):
        with Server((429, "never")) as server, pytest.raises(ValueError, match=r"is busy \(status 429\)") as error:
            ask(server, retries=3)
        assert len(server.requests) == 4
        assert "\n" not in str(error.value)

    def test_it_does_not_wait_for_ever(self):
        stop = threading.Event()

        def hang(_: int) -> tuple[int, str]:
            stop.wait(0.5)
            return 200, "{}"

        with Server(hang) as server, pytest.raises(ValueError, match=r"does not answer \(Request timed out"):
            ask(server, timeout=0.1, retries=1)
        assert len(server.requests) == 2

    def test_nobody_there(self):
        with Server(ten) as server:
            pass
        with pytest.raises(ValueError, match=r"does not answer \(Connection error\.\): see prompts\.base_url"):
            ask(server, retries=1)

    @pytest.mark.parametrize("status", [401, 404])
    def test_it_does_not_repeat_what_is_in_vain(self, status, monkeypatch):
        monkeypatch.setenv("OPENAI_API_KEY", "sesame")
        with Server((status, "no")) as server, pytest.raises(ValueError, match=f"status {status}") as error:
            ask(server)
        assert len(server.requests) == 1
        assert "sesame" not in str(error.value)

    def test_an_endpoint_without_json_mode(self):
        with Server((400, "what is response_format?"), ten) as server:
            assert ask(server).complete
        assert "response_format" not in server.requests[1][2]

    def test_an_endpoint_that_takes_no_request_is_asked_twice(self):
        with Server((400, "no such model")) as server, pytest.raises(ValueError, match="refuses the request"):
            ask(server)
        assert len(server.requests) == 2

    @pytest.mark.parametrize(
        "malformed",
        [
            chat("Sure! Here are ten prompts"),
            chat('{"prompts": "none"}'),
            chat('{"prompts": [1, 2]}'),
            chat('{"prompts": ["add'),
            (200, "<html>"),
            (200, '{"choices": []}'),
            (200, "[]"),
        ],
    )
    def test_malformed_answers_are_listed_and_left_out(self, malformed):
        with Server(malformed, ten) as server:
            prompts = ask(server)
        assert prompts.complete
        assert [reason.split(":")[0] for _, reason in prompts.refused] == ["malformed answer"]

    def test_a_fence_around_the_json_is_taken_off(self):
        with Server(chat("```json\n" + json.dumps([good(1)]) + "\n```")) as server:
            assert ask(server, 1).complete

    def test_an_endpoint_that_repeats_itself_is_asked_a_limited_number_of_times(self):
        with Server(chat(json.dumps({"prompts": [EXAMPLES[0], good(1), "make some noise"]}))) as server:
            prompts = ask(server, 30)
        assert len(prompts.accepted) == 1
        assert len(server.requests) == 12
        assert {reason.split(":")[0] for _, reason in prompts.refused} == {"duplicate", "too short"}


class TestLocalModel:
    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory):
        """A language model of the real classes that has learnt one sentence by heart."""
        import torch
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

        folder = tmp_path_factory.mktemp("local") / "model"
        words = GOOD.split()
        vocabulary = {word: number for number, word in enumerate(dict.fromkeys(["<unk>", "</s>", *words]))}
        tokens = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
        tokens.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokens, unk_token="<unk>", eos_token="</s>")
        tokenizer.chat_template = "{% for m in messages %}{{ m.content }} {% endfor %}"
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(vocabulary), hidden_size=32, intermediate_size=32, num_hidden_layers=2,
            num_attention_heads=2, max_position_embeddings=512, eos_token_id=1, bos_token_id=None, pad_token_id=1,
        )  # fmt: skip
        model = LlamaForCausalLM(config)
        sentence = tokenizer(GOOD, return_tensors="pt").input_ids
        sentence = torch.cat([sentence, torch.tensor([[1]])], dim=1)
        context = torch.zeros(1, 12, dtype=torch.long)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(120):
            ids = torch.cat([context, sentence], dim=1)
            loss = model(ids, labels=ids).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    def test_its_answers_are_checked_like_all_others(self, folder):
        model = LocalModel(folder)
        results = []
        for _ in range(2):
            prompts = Prompts(2)
            collect(model.candidates(["toy factory"], 2, 5, prompts), prompts)
            results.append(([one.text for one in prompts.accepted], prompts.refused))
        assert results[0] == results[1]
        assert results[0][0][0].startswith("add rough grinding produced by stone saws in a marble yard as")
        assert results[0][1]
        assert all(text.startswith("add") for text, _ in results[0][1])

    def test_a_folder_that_is_none(self, tmp_path):
        with pytest.raises(ValueError, match=r"holds no transformers model"):
            LocalModel(tmp_path)
        (tmp_path / "config.json").write_text("{}")
        with pytest.raises(ValueError, match=r"cannot be loaded"):
            LocalModel(tmp_path)
