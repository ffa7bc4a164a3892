"""A Hugging Face hub on this machine, as far as `huggingface_hub` needs one: repositories, commits, large files, downloads.

It keeps what it is sent, and refuses what it is told to refuse.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import RLock, Thread
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_these_tests"

Files = dict[str, bytes]


@dataclass
class Repository:
    """One repository: its commits, and what its branches and tags point to."""

    private: bool = False
    commits: dict[str, Files] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, branch: str, files: Files, message: str) -> str:
        """Add a commit to a branch and return its hash."""
        name = hashlib.sha1(f"{len(self.commits)} {message} {sorted(files)}".encode()).hexdigest()
        self.commits[name] = files
        self.refs[branch] = name
        self.messages.append(message)
        return name

    def at(self, revision: str) -> str | None:
        """The commit that a revision names."""
        return revision if revision in self.commits else self.refs.get(revision)


@dataclass
class Hub:
    """A running hub.

    Attributes:
        url: of the endpoint.
        seen: method, path, body and token of every request.
        repositories: by id.
        refusals: pattern of "METHOD path" -> (status, message), for what is to be refused.
        large: files of how many bytes go the way of large ones.
    """

    url: str = ""
    seen: list[tuple[str, str, bytes, str]] = field(default_factory=list)
    repositories: dict[str, Repository] = field(default_factory=dict)
    refusals: dict[str, tuple[int, str]] = field(default_factory=dict)
    large: int = 2**60
    blobs: Files = field(default_factory=dict)
    lock: Any = field(default_factory=RLock)

    def asked(self, pattern: str) -> list[str]:
        """The requests, as "METHOD path", in which a pattern occurs."""
        lines = [f"{method} {path}" for method, path, _, _ in self.seen]
        return [line for line in lines if re.search(pattern, line)]

    def answer(
        self, method: str, path: str, body: bytes, token: str
    ) -> tuple[int, bytes | Any, dict[str, str]]:
        """Status, body and headers for a request."""
        for pattern, (status, message) in self.refusals.items():
            if re.search(pattern, f"{method} {path}"):
                return status, {"error": message}, {"X-Error-Message": message}
        if path == "/api/validate-yaml":
            text = json.loads(body)["content"]
            return (200, {"errors": [], "warnings": []}, {}) if text.startswith("---") else (400, {}, {})
        if path == "/api/repos/create":
            return self._create(json.loads(body), token)
        if match := re.fullmatch(r"/lfs/([0-9a-f]{64})", path):
            assert hashlib.sha256(body).hexdigest() == match[1]
            self.blobs[match[1]] = body
            return 200, {}, {}
        match = re.fullmatch(r"/(?:api/models/)?([\w.-]+/[\w.-]+?)(?:\.git)?(/.*)?", path)
        repo = self.repositories.get(match[1]) if match else None
        if match is None or repo is None or (repo.private and token != TOKEN):
            return 401, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}
        rest = match[2] or ""
        if path.startswith("/api/models/") and (not rest or rest.startswith("/revision/")):
            return self._info(match[1], repo, unquote(rest.removeprefix("/revision/")) or "main")
        kind, _, more = rest.removeprefix("/").partition("/")
        if method == "POST" and token != TOKEN:
            return 403, {"error": "This token may not write"}, {}
        if kind == "branch":
            repo.refs.setdefault(unquote(more), repo.refs["main"])
            return 200, {}, {}
        if kind == "preupload":
            return 200, {"files": [self._mode(file) for file in json.loads(body)["files"]]}, {}
        if kind == "info":
            return 200, {"objects": [self._upload(each) for each in json.loads(body)["objects"]]}, {}
        if kind == "commit":
            return self._commit(match[1], repo, unquote(more), body)
        if kind == "tree":
            commit = repo.at(unquote(more))
            assert commit is not None
            return 200, [_entry(name, content) for name, content in repo.commits[commit].items()], {}
        assert kind == "resolve", path
        revision, _, name = more.partition("/")
        return self._file(repo, unquote(revision), unquote(name))

    def _create(self, wanted: dict[str, Any], token: str) -> tuple[int, Any, dict[str, str]]:
        name = f"{wanted['organization']}/{wanted['name']}"
        if token != TOKEN:
            return 401, {"error": "Invalid username or password."}, {}
        if name in self.repositories:
            return 409, {"error": "You already created this model repo"}, {}
        made = Repository(private=wanted.get("visibility") == "private" or bool(wanted.get("private")))
        made.commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"}, "initial commit")
        self.repositories[name] = made
        return 200, {"url": f"{self.url}/{name}", "name": name, "id": name}, {}

    def _info(self, name: str, repo: Repository, revision: str) -> tuple[int, Any, dict[str, str]]:
        commit = repo.at(revision)
        if commit is None:
            return 404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"}
        siblings = [{"rfilename": file} for file in repo.commits[commit]]
        told = {"id": name, "sha": commit, "private": repo.private, "siblings": siblings, "tags": []}
        return 200, told, {}

    def _mode(self, file: dict[str, Any]) -> dict[str, Any]:
        mode = "lfs" if file["size"] >= self.large else "regular"
        return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}

    def _upload(self, wanted: dict[str, Any]) -> dict[str, Any]:
        if wanted["oid"] in self.blobs:
            return wanted
        return {**wanted, "actions": {"upload": {"href": f"{self.url}/lfs/{wanted['oid']}", "header": {}}}}

    def _commit(
        self, name: str, repo: Repository, branch: str, body: bytes
    ) -> tuple[int, Any, dict[str, str]]:
        before = repo.at(branch)
        if before is None:
            return 404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"}
        files, message = dict(repo.commits[before]), ""
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                message = value["summary"]
            elif entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.blobs[value["oid"]]
            else:
                assert entry["key"] == "deletedFile"
                del files[value["path"]]
        commit = repo.commit(branch, files, message)
        url = f"{self.url}/{name}/commit/{commit}"
        return 200, {"commitUrl": url, "commitOid": commit, "pullRequestUrl": None}, {}

    def _file(self, repo: Repository, revision: str, name: str) -> tuple[int, Any, dict[str, str]]:
        commit = repo.at(revision)
        if commit is None:
            return 404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"}
        content = repo.commits[commit].get(name)
        if content is None:
            return 404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"}
        return 200, content, {"ETag": f'"{_oid(content)}"', "X-Repo-Commit": commit}


def _oid(content: bytes) -> str:
    """Of a file, as git has it."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _entry(name: str, content: bytes) -> dict[str, Any]:
    return {"type": "file", "path": name, "size": len(content), "oid": _oid(content)}


@contextmanager
def serving() -> Iterator[Hub]:
    """Serve a hub without repositories on a free port of this machine."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = urlsplit(self.path).path
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
            with hub.lock:
                hub.seen.append((self.command, path, body, token))
                status, answer, headers = hub.answer(self.command, path, body, token)
            content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_HEAD = _serve

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing on the screen."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
