"""The endpoint client against a server that fails in every way, and its memory."""

import json
import sys
from pathlib import Path
from threading import Event

import pytest

from blink.bench.judges import ChatEndpoint, EndpointError
from tests.bench.judges.server import Act, Seen, reply, serving


def ask(endpoint: ChatEndpoint, cache: Path, text: str = "how right?", temperature: float = 0.0) -> str:
    return endpoint.ask(text, temperature=temperature, max_tokens=3, cache=cache).content


def endpoint(url: str, attempts: int = 4, timeout: float = 5.0, key: str | None = "secret") -> ChatEndpoint:
    return ChatEndpoint(url, "gpt", key, timeout=timeout, attempts=attempts, first_wait=0.01)


def test_request_is_an_openai_chat_completion(tmp_path: Path) -> None:
    """Would catch a wrong path, a lost key, temperature or limit of tokens, and the model's name not handed on."""
    with serving(lambda seen, number: reply("0.5")) as server:
        found = endpoint(server.url + "/").ask("how right?", temperature=0.5, max_tokens=3, cache=tmp_path)
    assert found == ("0.5", "judge-0613")
    [seen] = server.seen
    assert seen.path == "/v1/chat/completions"
    assert seen.headers["authorization"] == "Bearer secret"
    assert seen.body == {
        "model": "gpt",
        "messages": [{"role": "user", "content": "how right?"}],
        "temperature": 0.5,
        "max_tokens": 3,
    }


def test_without_a_key_none_is_sent(tmp_path: Path) -> None:
    """Would catch "Bearer None", at which some servers balk."""
    with serving(lambda seen, number: reply("1")) as server:
        ask(endpoint(server.url, key=None), tmp_path)
    assert "authorization" not in server.seen[0].headers


def test_nothing_of_the_environment_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch OpenAI's own key and account told to another server, or its address in place of the config's."""
    values = {"API_KEY": "sk-1", "ADMIN_KEY": "sk-2", "ORG_ID": "org-3", "PROJECT_ID": "proj-4"}
    for name, value in {
        **values,
        "BASE_URL": "http://127.0.0.1:9/v1",
    }.items():
        monkeypatch.setenv(f"OPENAI_{name}", value)
    with serving(lambda seen, number: reply("1")) as server:
        assert ask(endpoint(server.url, key=None), tmp_path, "one") == "1"
        assert ask(endpoint(server.url, key="secret"), tmp_path, "two") == "1"
    assert [seen.headers.get("authorization") for seen in server.seen] == [None, "Bearer secret"]
    sent = " ".join(value for seen in server.seen for value in seen.headers.values())
    assert not [value for value in values.values() if value in sent]


@pytest.mark.parametrize(
    "fault",
    [
        Act(429, b"slow down", {"Retry-After": "0.01"}),
        Act(429, b"slow down", {"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT"}),
        Act(500, b"oops"),
        Act(503),
        Act(hangs_up=True),
        Act(stalls=True),
        Act(200, b"<html>proxy</html>"),
        Act(200, b'{"choices": []}'),
        Act(200, b'["no"]'),
    ],
)
def test_passing_faults_are_asked_again(tmp_path: Path, fault: Act) -> None:
    """Would catch a benchmark that dies of one bad minute, and a fault taken for a grade."""
    with serving(lambda seen, number: reply("0.7") if number == 2 else fault) as server:
        assert ask(endpoint(server.url, timeout=0.3), tmp_path) == "0.7"
    assert len(server.seen) == 3


def test_refused_connection_is_tried_to_the_end_and_named(tmp_path: Path) -> None:
    """Would catch an endless loop, and an error that does not say which server, how often and why."""
    with serving(lambda seen, number: reply("1")) as server:
        pass
    with pytest.raises(EndpointError, match=rf"{server.url} gave no reply in 3 attempts.*refused"):
        ask(endpoint(server.url, attempts=3), tmp_path)


def test_refusal_is_not_repeated(tmp_path: Path) -> None:
    """Would catch a wrong key tried for minutes, and the server's reason lost."""
    with (
        serving(lambda seen, number: Act(401, b"no such key")) as server,
        pytest.raises(EndpointError, match=r"refuses, HTTP 401 Unauthorized: no such key"),
    ):
        ask(endpoint(server.url), tmp_path)
    assert len(server.seen) == 1


def test_redirection_gets_no_key(tmp_path: Path) -> None:
    """Would catch the key sent on to wherever a server points."""
    with serving(lambda seen, number: reply("1")) as other:
        moved = Act(302, b"", {"Location": f"{other.url}/chat/completions"})
        with (
            serving(lambda seen, number: moved) as server,
            pytest.raises(EndpointError, match="refuses, HTTP 302"),
        ):
            ask(endpoint(server.url), tmp_path)
    assert other.seen == []


def test_nothing_is_asked_twice_and_other_questions_are(tmp_path: Path) -> None:
    """Would catch a cache that is not read, one that mixes temperatures, models or texts, and a key kept in it."""
    with serving(lambda seen, number: reply(f"0.{number}")) as server:
        asked = endpoint(server.url)
        first = ask(asked, tmp_path)
        assert ask(asked, tmp_path) == ask(endpoint(server.url, key="another"), tmp_path) == first == "0.0"
        assert ask(asked, tmp_path, text="and now?") == "0.1"
        assert ask(asked, tmp_path, temperature=0.5) == "0.2"
        assert ask(ChatEndpoint(server.url, "other", first_wait=0.01), tmp_path) == "0.3"
    assert len(server.seen) == 4
    assert not any("secret" in path.read_text(encoding="utf-8") for path in tmp_path.iterdir())


def test_damaged_memory_is_named(tmp_path: Path) -> None:
    """Would catch a half file taken for an empty reply."""
    with serving(lambda seen, number: reply("1")) as server:
        ask(endpoint(server.url), tmp_path)
        [kept] = tmp_path.iterdir()
        kept.write_text(json.dumps({"content": "1"})[:-3], encoding="utf-8")
        with pytest.raises(ValueError, match=rf"{kept.name} is damaged"):
            ask(endpoint(server.url), tmp_path)


def test_empty_content_is_a_reply(tmp_path: Path) -> None:
    """Would catch a refusal of the model (content null) retried as if the network had failed."""
    with serving(lambda seen, number: reply(None)) as server:
        assert ask(endpoint(server.url), tmp_path) == ""
    assert len(server.seen) == 1


def test_stopped_while_waiting_gives_up(tmp_path: Path) -> None:
    """Would catch Ctrl-C that waits for minutes of retries in other threads."""
    stop = Event()

    def fails(seen: Seen, number: int) -> Act:
        stop.set()
        return Act(503)

    with serving(fails) as server:
        waiting = ChatEndpoint(server.url, "gpt", first_wait=30)
        with pytest.raises(EndpointError, match="not asked again"):
            waiting.ask("x", temperature=0, max_tokens=3, cache=tmp_path, stop=stop)
    assert len(server.seen) == 1


def test_missing_package_is_one_line_before_anything_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a package that is found missing only after all questions are answered."""
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ValueError, match=r"^judge=endpoint needs openai: pip install 'blink-mllm\[judge\]'$"):
        endpoint("http://localhost/v1")


def test_the_wait_is_what_the_server_asks_for_and_at_most_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Would catch a server's Retry-After that is not heeded, and one of an hour that is."""
    monkeypatch.setattr("blink.bench.judges.chat.LONGEST_WAIT", 0.2)
    faults = [Act(429, b"", {"Retry-After": "0.1"}), Act(503, b"", {"Retry-After": "3600"}), Act(500)]
    caplog.set_level("INFO", "blink.bench.judges.chat")
    with serving(lambda seen, number: faults[number] if number < 3 else reply("1")) as server:
        assert ask(endpoint(server.url), tmp_path) == "1"
    ours = [record.getMessage() for record in caplog.records if record.name == "blink.bench.judges.chat"]
    waits = [float(message.split(" in ")[-1].removesuffix(" s")) for message in ours]
    assert waits == [0.1, 0.2, 0.04]


def test_key_is_never_shown() -> None:
    """Would catch a key in a log or a traceback."""
    assert "secret" not in repr(endpoint("http://localhost/v1"))
