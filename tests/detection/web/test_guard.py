"""Names, tokens and addresses."""

import pytest
from starlette.datastructures import Headers
from starlette.responses import Response

from detection.web.guard import ADDRESSES, FAILURES, PERIOD, Hosts, Login, is_loopback, new_token, token_from

TOKEN = "correct-horse-battery"


@pytest.mark.parametrize(
    ("bound", "allowed", "header", "answered"),
    [
        ("127.0.0.1", (), "localhost:8765", True),
        ("127.0.0.1", (), "LOCALHOST", True),
        ("127.0.0.1", (), "[::1]:8765", True),
        ("127.0.0.1", (), "192.0.2.1", False),
        ("127.0.0.1", (), "evil.example", False),
        ("127.0.0.1", (), "localhost.evil.example", False),
        ("127.0.0.1", (), "evil.example@localhost", False),
        ("127.0.0.1", (), "localhost:8765:1", False),
        ("127.0.0.1", (), "", False),
        ("127.0.0.1", (), None, False),
        ("0.0.0.0", (), "192.0.2.1:8765", True),
        ("0.0.0.0", (), "shop", False),
        ("0.0.0.0", ("Shop",), "shop.:80", True),
        ("192.0.2.1", (), "192.0.2.1", True),
        ("192.0.2.1", (), "192.0.2.2", False),
        ("::", (), "[2001:db8::7]", True),
        ("::1", ("2001:0db8::0007",), "[2001:db8::7]:80", True),
        ("shop", (), "shop", True),
    ],
)
def test_names_that_are_answered(bound, allowed, header, answered):
    assert Hosts(bound, allowed).answers(header) is answered


@pytest.mark.parametrize("name", ["http://shop", "shop:80", "a b", "", "*"])
def test_a_name_that_is_none(name):
    with pytest.raises(ValueError, match="allowed host"):
        Hosts("127.0.0.1", [name])


def test_addresses_of_this_computer_alone():
    assert [is_loopback(one) for one in ("127.0.0.1", "127.9.9.9", "::1", "0.0.0.0", "::", "192.0.2.1")] == (
        [True] * 3 + [False] * 3
    )


def cookie_of(login):
    response = Response()
    login.remember(response)
    return response.headers["set-cookie"].split(";")[0]


def test_the_cookie_is_known_and_no_other():
    login = Login(TOKEN)
    cookie = cookie_of(login)
    assert login.knows(Headers({"cookie": f"a=b; {cookie}"}))
    for wrong in (
        cookie[:-1],
        cookie + "x",
        "detect=",
        f"detect={TOKEN}",
        "detect=\xe9",
        "x=y",
        ";;",
        cookie_of(Login(TOKEN)),
    ):
        assert not login.knows(Headers({"cookie": wrong}))
    assert not login.knows(Headers({}))


def test_failures_are_limited_per_address():
    now = [0.0]
    login = Login(TOKEN, clock=lambda: now[0])
    for _ in range(FAILURES):
        assert login.wait("192.0.2.1") == 0
        assert not login.accepts("no", "192.0.2.1")
    assert login.wait("192.0.2.1") == PERIOD and login.wait("192.0.2.2") == 0
    now[0] = PERIOD
    assert login.wait("192.0.2.1") == 0 and login.accepts(TOKEN, "192.0.2.1")
    for number in range(FAILURES):
        login.accepts("no", f"2001:db8::{number}")  # one subscriber's
    assert login.wait("2001:db8::ffff") == PERIOD and login.wait("2001:db8:0:1::1") == 0
    for number in range(2 * ADDRESSES):
        login.accepts("no", f"192.0.{number // 256}.{number % 256}")
    assert len(login._failures) == ADDRESSES


def test_where_the_token_is(tmp_path):
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    assert token_from({"RCMAE_TOKEN": "other"}, file) == TOKEN
    assert token_from({"RCMAE_TOKEN": f" {TOKEN} "}) == TOKEN
    assert token_from({}) is None
    assert len(new_token()) > 40 and new_token() != new_token()


@pytest.mark.parametrize("token", ["", "short", "two\nlines" * 3, "ü" * 20])
def test_a_token_that_is_none(token):
    with pytest.raises(ValueError, match="at least 16 ASCII"):
        Login(token)
