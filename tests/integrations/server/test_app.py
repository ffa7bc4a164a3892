"""The server as clients see it: equal answers, streams, load, limits, keys."""

import asyncio
import json
import urllib.error
import urllib.request
from typing import Any

import openai
import pytest
import torch
from PIL import Image

from blink import attach
from blink.model.backbone import Backbone
from blink.model.image_inputs import prompt_inputs
from tests import models
from tests.integrations.server.served import LIMITS, POLICY, Server, message, served

QUESTIONS = (
    "Is there a red square?",
    "What colour is the circle?",
    "How many shapes are there?",
    "Name one.",
)


def wanted(backbone: Backbone, server: Server, image: Image.Image, question: str, tokens: int) -> str:
    """The answer by `attach` and the stock `generate`."""
    prompt = server.serving.template.prompt(question)
    inputs = prompt_inputs(backbone, [image], [prompt])
    handle = attach(backbone, POLICY)
    try:
        with torch.inference_mode():
            ids_1S = backbone.model.generate(**inputs, do_sample=False, max_new_tokens=tokens)
    finally:
        handle.detach()
    new = ids_1S[0, inputs["input_ids"].shape[1] :]
    text: str = backbone.processor.tokenizer.decode(new, skip_special_tokens=True)
    return text


def test_the_official_client_reads_answers_and_events(server: Server, tiny: Backbone) -> None:
    """Would catch a response that clients cannot read, another prompt or policy, and events that are not told."""
    client, image = server.client(), models.picture(0, (96, 96))
    assert [model.id for model in client.models.list()] == ["small", "small-vanilla"]
    told: Any = client.chat.completions.create(
        model="small", messages=message(QUESTIONS[0], image), max_tokens=6
    )
    assert told.choices[0].message.content == wanted(tiny, server, image, QUESTIONS[0], 6)
    assert told.choices[0].finish_reason in ("stop", "length")
    inputs = prompt_inputs(tiny, [image], [server.serving.template.prompt(QUESTIONS[0])])
    assert told.usage.prompt_tokens == inputs["input_ids"].shape[1]
    assert told.usage.total_tokens == told.usage.prompt_tokens + told.usage.completion_tokens
    assert [event["layer"] for event in told.blink["events"]] == list(POLICY.layers)
    vanilla: Any = client.chat.completions.create(
        model="small-vanilla", messages=message(QUESTIONS[0], image), max_tokens=6
    )
    assert vanilla.blink == {"events": [], "without_blink": None}
    text: Any = client.chat.completions.create(
        model="small", messages=[{"role": "user", "content": "red"}], max_tokens=2
    )
    assert text.blink["without_blink"] == "there is no picture"


def test_a_stream_is_the_answer_in_pieces(server: Server, tiny: Backbone) -> None:
    """Would catch pieces that are lost or repeated, and a stop that comes through."""
    client, image = server.client(), models.picture(1, (96, 96))
    asked: dict[str, Any] = {"model": "small", "messages": message("Describe it in a sentence.", image)}
    whole = wanted(tiny, server, image, "Describe it in a sentence.", 12)
    options: Any = {"include_usage": True}
    chunks: list[Any] = list(
        client.chat.completions.create(**asked, max_tokens=12, stream=True, stream_options=options)
    )
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(texts) == whole
    assert chunks[-1].usage.completion_tokens > 0
    [blink] = [chunk.blink for chunk in chunks if hasattr(chunk, "blink")]
    assert len(blink["events"]) == len(POLICY.layers)
    stop = whole[len(whole) // 2]
    cut = whole[: whole.index(stop)]
    for stream in (False, True):
        answer: Any = client.chat.completions.create(**asked, max_tokens=12, stop=stop, stream=stream)
        parts = [part.choices[0] for part in answer] if stream else answer.choices
        text = "".join(part.delta.content or "" for part in parts) if stream else parts[0].message.content
        assert text == cut
        assert parts[-1].finish_reason == "stop"


def test_samples_follow_their_seed(server: Server) -> None:
    """Would catch a temperature that is left out, and draws that disturb each other."""
    client, image = server.client(), models.picture(2, (96, 96))

    def drawn(seed: int) -> str | None:
        answer = client.chat.completions.create(
            model="small", messages=message("Name a thing.", image), temperature=2.0, seed=seed, max_tokens=8
        )
        text: str | None = answer.choices[0].message.content
        return text

    assert drawn(1) == drawn(1)
    assert len({drawn(seed) for seed in range(4)}) > 1


@pytest.mark.slow
def test_under_load_nothing_is_lost(server: Server, tiny: Backbone) -> None:
    """Would catch answers that change places, a request that is never answered, and one that spoils its batch.

    200 requests, 16 at a time: some stream, some are given up, some are malformed.
    """
    images = [models.picture(seed, (96, 96)) for seed in range(8)]
    answers = {
        (image, question): wanted(tiny, server, images[image], question, 6)
        for image in range(8)
        for question in QUESTIONS
    }

    async def all_of_them() -> list[str]:
        client = openai.AsyncOpenAI(base_url=server.url, api_key="none", max_retries=0)
        gate = asyncio.Semaphore(16)

        async def one(number: int) -> str:
            image, question = number % 8, QUESTIONS[number % 4]
            asked: Any = {"model": "small", "messages": message(question, images[image]), "max_tokens": 6}
            async with gate:
                if number % 10 == 3:
                    with pytest.raises(openai.BadRequestError):
                        await client.chat.completions.create(**asked, n=2)
                    return "refused"
                if number % 10 == 7:
                    task = asyncio.create_task(client.chat.completions.create(**asked))
                    await asyncio.sleep(0.02)
                    task.cancel()
                    with pytest.raises((asyncio.CancelledError, openai.APIConnectionError)):
                        await task
                    return "given up"
                if number % 10 == 5:
                    stream = await client.chat.completions.create(**asked, stream=True)
                    pieces = [part.choices[0].delta.content or "" async for part in stream]
                    assert "".join(pieces) == answers[image, question]
                    return "streamed"
                told = await client.chat.completions.create(**asked)
                assert told.choices[0].message.content == answers[image, question]
                return "answered"

        async with client:
            return await asyncio.gather(*map(one, range(200)))

    outcomes = asyncio.run(all_of_them())
    assert {kind: outcomes.count(kind) for kind in set(outcomes)} == {
        "answered": 140,
        "streamed": 20,
        "refused": 20,
        "given up": 20,
    }
    with urllib.request.urlopen(server.url.replace("/v1", "/health"), timeout=10) as reply:
        assert json.load(reply) == {"status": "ok", "waiting": 0}


def refused(server: Server, key: str = "none", **changes: Any) -> openai.APIStatusError:
    """The error that a request with some changes gets."""
    asked: dict[str, Any] = {
        "model": "small",
        "messages": message(QUESTIONS[0], models.picture(0, (96, 96))),
        "max_tokens": 4,
    }
    with pytest.raises(openai.APIStatusError) as caught:
        server.client(key).chat.completions.create(**asked | changes)
    return caught.value


def test_limits_and_mistakes_are_told(server: Server) -> None:
    """Would catch a request that takes all memory, and a mistake that is our failure."""
    picture = models.picture(0, (96, 96))
    assert refused(server, messages=message("?", picture.resize((800, 700)))).status_code == 400
    noise = message("?", models.picture(0, (640, 640)))
    assert refused(server, messages=noise * 8).status_code in (400, 413)
    assert "at most 32" in refused(server, max_tokens=33).message
    assert refused(server, model="other").status_code == 404
    assert "about one" in refused(server, messages=message("?", picture, picture)).message
    for body in (b"", b"[]", b"{", b'{"messages": 5}', b'{"messages": []}', b"\xff", b"[" * 100_000):
        request = urllib.request.Request(f"{server.url}/chat/completions", body, method="POST")
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=10)
        assert caught.value.code == 400
        assert json.load(caught.value)["error"]["type"] == "invalid_request_error"
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(server.url.replace("/v1", "/v2"), timeout=10)


def test_a_key_a_queue_and_a_time(tiny: Backbone) -> None:
    """Would catch a server that answers anybody, lets requests pile up, or keeps a client for ever."""
    with served(tiny, key="right", limits=LIMITS._replace(seconds=1e-4)) as server:
        assert refused(server, key="wrong").status_code == 401
        with pytest.raises(openai.AuthenticationError):
            server.client("other").models.list()
        assert refused(server, key="right").status_code == 504
    with served(tiny, limits=LIMITS._replace(queue=1)) as server:

        async def many() -> list[int]:
            client = openai.AsyncOpenAI(base_url=server.url, api_key="none", max_retries=0)
            asked: Any = {"model": "small", "messages": message("Describe it.", models.picture(0, (96, 96)))}

            async def one() -> int:
                try:
                    await client.chat.completions.create(**asked, max_tokens=32)
                except openai.RateLimitError as error:
                    return 429 if error.response.headers["retry-after"] == "1" else 0
                return 200

            async with client:
                return await asyncio.gather(*(one() for _ in range(12)))

        codes = asyncio.run(many())
        assert set(codes) == {200, 429}
