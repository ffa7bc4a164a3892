"""A server that speaks OpenAI's chat completions, with Blink on: `python -m blink.serve`.

Read from top to bottom: a file imports only from files above it.

    plan.py       what is served: the config, checked, before any weight is read
    requests.py   requests as OpenAI's clients send them, checked
    responses.py  answers, and responses as OpenAI's clients read them
    jobs.py       what waits for its turn with the model: requests, and other work
    answering.py  the one thread in which the model answers: requests that wait share an engine call
    app.py        routes, limits, the API key, streams

fastapi and uvicorn are an extra: `pip install "blink-mllm[serve]"`.
"""
