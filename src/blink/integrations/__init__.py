"""Other people's places in which Blink works: their hub, their harness, their browser.

Each is a sub-room that knows none of the others, but for the demo, which answers in the server's thread.

    alone.py      one prompt answered by the stock `generate`, with Blink attached for the length of the call
    hub/          TokenSR modules on the Hugging Face hub: the model card, and the upload
    server/       OpenAI's chat completions over HTTP
    harness/      a model of lmms-eval
    demo/         a page on which to try Blink in a browser
"""
