"""The smallest Hub that ``snapshot_download`` can read from: standard library, loopback, in this process."""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass
class TinyRepo:
    """One repository: commits from the sha to files, and names of commits."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    token: str | None = None
    is_gated: bool = False
    failure: int | None = None

    def commit(self, files: dict[str, bytes], *, ref: str = "main") -> str:
        """Add a commit and return its sha."""
        sha = hashlib.sha1(repr((sorted(files.items()), len(self.commits))).encode()).hexdigest()
        self.commits[sha] = dict(files)
        self.refs[ref] = sha
        return sha


class TinyHub:
    """A server that answers for ``repos``; ``requests`` records every method, path and authorization header."""

    def __init__(self) -> None:
        self.repos: dict[str, TinyRepo] = {}
        self.requests: list[tuple[str, str, str]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """Address of the server."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def add(self, repo_id: str, files: dict[str, bytes], **options: object) -> TinyRepo:
        """Make a repository with one commit on main; a data set's id begins with ``datasets/``."""
        repo = self.repos[repo_id] = TinyRepo(**options)  # type: ignore[arg-type]
        repo.commit(files)
        return repo


@dataclass
class _Answer:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def _refusal(status: int, code: str) -> _Answer:
    return _Answer(status, json.dumps({"error": code}).encode(), {"X-Error-Code": code, "X-Error-Message": code})


def _answer(hub: TinyHub, path: str, token: str) -> _Answer:
    parts = [unquote(part) for part in path.strip("/").split("/")]
    is_api = parts[0] == "api"
    parts = parts[1:] if is_api else parts
    is_dataset = parts[0] == "datasets"
    parts = parts[1:] if is_dataset or is_api else parts
    repo_id = "/".join(parts[:2])
    repo = hub.repos.get(f"datasets/{repo_id}" if is_dataset else repo_id)
    if repo is None or (repo.token is not None and token != repo.token):
        return _refusal(401 if not token else 404, "RepoNotFound")
    if repo.failure is not None:
        return _Answer(repo.failure)
    if repo.is_gated:
        return _refusal(403, "GatedRepo")
    verb, revision = parts[2:4] or ("revision", "main")
    sha = repo.refs.get(revision, revision)
    if sha not in repo.commits:
        return _refusal(404, "RevisionNotFound")
    files = repo.commits[sha]
    if is_api:
        return _info(repo_id, sha, files) if verb == "revision" else _tree(files, "/".join(parts[4:]))
    content = files.get("/".join(parts[4:]))
    if content is None:
        return _refusal(404, "EntryNotFound")
    return _Answer(200, content, {"X-Repo-Commit": sha, "ETag": f'"{_oid(content)}"'})


def _info(repo_id: str, sha: str, files: dict[str, bytes]) -> _Answer:
    siblings = [{"rfilename": name} for name in files]
    values = {"id": repo_id, "modelId": repo_id, "sha": sha, "siblings": siblings, "private": False, "tags": []}
    return _Answer(body=json.dumps(values).encode(), headers={"Content-Type": "application/json"})


def _tree(files: dict[str, bytes], folder: str) -> _Answer:
    files = {name: content for name, content in files.items() if not folder or name.startswith(f"{folder}/")}
    if folder and not files:
        return _refusal(404, "EntryNotFound")
    entries = [{"type": "file", "path": n, "size": len(c), "oid": _oid(c)} for n, c in files.items()]
    return _Answer(body=json.dumps(entries).encode(), headers={"Content-Type": "application/json"})


def _oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _handler(hub: TinyHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            hub.requests.append((self.command, self.path, token))
            answer = _answer(hub, urlsplit(self.path).path, token)
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(answer.body)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            """Stay silent."""

    return Handler
