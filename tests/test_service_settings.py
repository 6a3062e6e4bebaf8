"""One way for settings from the command and the environment to the worker; keys never split, never open by accident."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from artifacts import write_artifact

pytest.importorskip("pydantic_settings")
pytest.importorskip("fastapi")
from starlette.requests import Request

from gazeseg_serve.errors import ConfigError
from gazeseg_serve.service.keys import Keys, read_keys
from gazeseg_serve.service.launch import _check_address, check
from gazeseg_serve.service.problems import Problem
from gazeseg_serve.service.settings import WHOLE, Settings, load_settings


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.upper().startswith("GAZESEG_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("a,b=c")
    write_artifact(folder)
    return folder


def asking(header: str, value: bytes) -> Request:
    return Request({"type": "http", "headers": [(header.encode(), value)], "client": ("192.0.2.1", 1)})


def passes(keys: Keys, given: str | bytes) -> bool:
    sent = given if isinstance(given, bytes) else given.encode()
    try:
        return keys.check(asking("x-api-key", sent)) == keys.check(asking("authorization", b"Bearer " + sent))
    except Problem:
        return False


@pytest.mark.parametrize("keys", [["a,b"], ["a,b", "c"], ["x=1;y", "ü"], [" padded "]])
def test_what_the_command_is_given_reaches_the_worker_whole(folder: Path, keys: list[str], monkeypatch) -> None:
    options = {
        "artifact": folder,
        "models": [f"other={folder}"],
        "api_keys": keys,
        "max_queue": 7,
        "cors_origins": ["https://a.example"],
    }
    first = check(options)
    monkeypatch.chdir("/")
    monkeypatch.setenv(WHOLE, first.to_json())
    monkeypatch.setenv("GAZESEG_MAX_QUEUE", "9")  # what the command has taken over already
    worker = load_settings()
    assert worker == first
    assert worker.folders() == {"default": folder, "other": folder}
    allowed = Keys.load(worker)
    for key in keys:
        assert passes(allowed, key.strip())
        assert not any(passes(allowed, part) for part in key.split(",") if part != key)


def test_the_environments_keys_are_split_at_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAZESEG_API_KEYS", "first, second")
    keys = Keys.load(load_settings())
    assert passes(keys, "first")
    assert passes(keys, "second")
    assert not passes(keys, "first, second")


@pytest.mark.parametrize("value", ["", ",", " , ", "a,", ",a", "a,,b", " "])
def test_an_empty_key_never_starts_a_service(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAZESEG_API_KEYS", value)
    with pytest.raises(ConfigError, match=r"api_keys.*empty"):
        load_settings()
    monkeypatch.delenv("GAZESEG_API_KEYS")
    if not value.strip():
        with pytest.raises(ConfigError, match=r"api_keys.*empty"):
            load_settings({"api_keys": [value]})


@pytest.mark.parametrize("key", ["", "a\nb", "a\x00", "\u2028"])
def test_a_key_that_no_header_can_carry_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match="API key"):
        Keys([key])


def test_the_error_over_a_setting_does_not_quote_it() -> None:
    with pytest.raises(ConfigError) as error:
        load_settings({"api_keys": ["s3cret", ""]})
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize(
    "name", ["GAZESEG_API_KEY", "GAZESEG_MAX_QUEU", "gazeseg_api_key", "GAZESEG_", "GAZESEG_PORT_X", "GAZESEG_HOST"]
)
def test_a_name_that_is_no_setting_ends_the_start(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(ConfigError, match=f"{name} is no setting; known: .*GAZESEG_API_KEYS"):
        load_settings()


@pytest.mark.parametrize("name", [
    "GAZESEG_PLAN_CACHE", "GAZESEG_SERVICE_HOST", "GAZESEG_SERVICE_PORT", "GAZESEG_SERVICE_PORT_HTTP", "GAZESEG_PORT",
    "GAZESEG_PORT_3000_TCP", "GAZESEG_PORT_3000_TCP_ADDR", "GAZESEG_CANARY_SERVICE_HOST", "GAZESEG_CANARY_PORT_3000_TCP_PROTO",
])  # fmt: skip
def test_what_kubernetes_sets_for_a_service_of_that_name_is_none_of_ours(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "tcp://10.0.0.1:3000")
    assert load_settings() == Settings()


@pytest.mark.parametrize(("options", "needle"), [
    ({"timeout_seconds": "inf"}, "timeout_seconds"), ({"drain_seconds": "nan"}, "drain_seconds"),
    ({"grace_seconds": 0}, "grace_seconds"), ({"models": ["a/b=x"]}, "name=folder"), ({"models": ["=x"]}, "name=folder"),
    ({"models": ["a=x", "a=y"]}, "two models"), ({"models": "a=x,a=y"}, "two models"), ({"models": ["a"]}, "name=folder"),
    ({"artifact": "x", "models": ["default=y"]}, "two models"), ({"held_bytes": 2**21}, "held_bytes"),
])  # fmt: skip
def test_what_cannot_be_is_said(options: dict[str, object], needle: str) -> None:
    with pytest.raises(ConfigError, match=needle):
        load_settings(options)


@pytest.mark.parametrize("text", ["[1]", "{", '"x"', '{"no_such": 1}', '{"max_queue": 0}'])
def test_a_whole_that_is_none_is_said(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WHOLE, text)
    with pytest.raises(ConfigError):
        load_settings()


def test_the_whole_may_be_given_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WHOLE, json.dumps({"api_keys": ["a,b"], "max_queue": 3}))
    assert passes(Keys.load(load_settings()), "a,b")
    assert load_settings({"max_queue": 5}).max_queue == 5


def test_a_key_file_may_have_a_mark_line_ends_and_umlauts(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_bytes(b"\xef\xbb\xbfkey1\r\nk\xc3\xa9y2\n\n  # a comment\nkey3 # no comment\n")
    assert read_keys(path) == ["key1", "kéy2", "key3 # no comment"]
    keys = Keys(read_keys(path))
    assert passes(keys, "key1")
    assert passes(keys, "kéy2")
    assert passes(keys, "kéy2".encode("latin-1")), "as clients send it that take headers for Latin-1"
    assert not passes(keys, "\ufeffkey1")
    assert not passes(keys, "key3")


@pytest.mark.parametrize("content", [b"", b"\n\n# none\n", b"\xff\xfe", b"k\xe9y\n"])
def test_a_key_file_without_keys_or_of_another_charset_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "keys"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="keys"):
        Keys.load(Settings(api_keys_file=path))


def test_clients_are_told_apart_by_their_key_however_it_is_spelled() -> None:
    keys = Keys(["kéy", "other"])
    names = {keys.check(asking("x-api-key", "kéy".encode(charset))) for charset in ("utf-8", "latin-1")}
    assert len(names) == 1
    assert keys.check(asking("x-api-key", b"other")) not in names


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1", "[::1]", "0.0.0.0", "::"])
def test_names_and_both_kinds_of_addresses_are_listened_on(host: str) -> None:
    if ":" in host and not _has_ipv6():
        pytest.skip("no IPv6 here")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = _check_address(host, port)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    assert socket.inet_pton(family, address)
    assert (family == socket.AF_INET6) == (":" in host)


def _has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


def test_an_address_that_is_taken_or_unknown_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigError, match="cannot listen"):
        _check_address("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(ConfigError, match="cannot listen"):
        _check_address("no.such.name.invalid", 3000)
