"""A chat endpoint on this machine that does as it is told: replies, errors, silence, rubbish."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from typing import Any, NamedTuple


class Seen(NamedTuple):
    """A request that arrived; names of headers are in lower case."""

    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]

    @property
    def text(self) -> str:
        message: str = self.body["messages"][0]["content"]
        return message


class Act(NamedTuple):
    """What to do with a request: a status with a body and headers, or to stall, or to hang up."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = {}
    stalls: bool = False
    hangs_up: bool = False


def reply(content: str | None, model: str = "judge-0613") -> Act:
    """A chat completion."""
    return Act(200, json.dumps({"model": model, "choices": [{"message": {"content": content}}]}).encode())


class Server(NamedTuple):
    """A running endpoint, and the requests that it saw."""

    url: str
    seen: list[Seen]


@contextmanager
def serving(script: Callable[[Seen, int], Act], port: int = 0) -> Iterator[Server]:
    """Serve what `script` says to a request and its number, from 0; port 0 takes any that is free."""
    seen: list[Seen] = []
    lock, end = Lock(), Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            request = Seen(
                self.path, {name.lower(): value for name, value in self.headers.items()}, json.loads(body)
            )
            with lock:
                number = len(seen)
                seen.append(request)
            act = script(request, number)
            if act.stalls:
                end.wait(10)
            if act.stalls or act.hangs_up:
                self.close_connection = True
                return
            self.send_response(act.status)
            for name, value in act.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(act.body)))
            self.end_headers()
            self.wfile.write(act.body)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing on the screen."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield Server(f"http://127.0.0.1:{server.server_port}/v1", seen)
    finally:
        end.set()
        server.shutdown()
        thread.join()
        server.server_close()
