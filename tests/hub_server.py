"""A stand-in for the Hugging Face hub: the requests by which huggingface_hub makes a repository and commits files.

Files above `LARGE` bytes go by LFS (without Xet, which has a protocol of its own), smaller ones inside the commit.
Written after the client (huggingface_hub 2.4.0, `hf_api.py`, `_commit_api.py`, `lfs.py`), not after the hub's code.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LARGE = 10_000
TOKEN = "hf_standin"


@dataclass
class Repository:
    kind: str
    url: str
    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)
    """Their messages."""


@dataclass
class Hub:
    """What the stand-in holds."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    """sha256 → content, sent by LFS."""


@contextmanager
def hub() -> Iterator[Hub]:
    """A hub on a free port of this machine."""
    held = Hub()

    class Handler(_Handler):
        hub = held

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    held.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield held
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, status: int, data: object) -> None:
        body = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_PUT(self) -> None:
        content = self._body()
        oid = self.path.rpartition("/")[2]
        assert hashlib.sha256(content).hexdigest() == oid
        self.hub.large[oid] = content
        self._answer(200, {})

    def do_GET(self) -> None:
        name = re.fullmatch(r"/api/(?:model|dataset)s/([^/]+/[^/?]+)(?:/revision/main)?", self.path.partition("?")[0])
        if not name or name[1] not in self.hub.repositories:
            return self._answer(404, {"error": "Repository not found"})
        return self._answer(200, {"id": name[1], "sha": f"{len(self.hub.repositories[name[1]].commits):040x}"})

    def do_POST(self) -> None:
        path, body = self.path.partition("?")[0], self._body()
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._answer(401, {"error": "Invalid username or password."})
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        if made := re.fullmatch(r"/api/(model|dataset)s/([^/]+/[^/]+)/(preupload|commit)/main", path):
            repository = self.hub.repositories[made[2]]
            assert repository.kind == made[1]
            return (self._preupload if made[3] == "preupload" else self._commit)(repository, body)
        if re.fullmatch(r"/(datasets/)?[^/]+/[^/]+\.git/info/lfs/objects/batch", path):
            return self._batch(json.loads(body))
        return self._answer(404, {"error": f"{path} is not implemented"})

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        kind = asked.get("type") or "model"
        url = f"{self.hub.url}/{'datasets/' if kind == 'dataset' else ''}{name}"
        if name in self.hub.repositories:
            return self._answer(409, {"error": "You already created this repo", "url": url})
        self.hub.repositories[name] = Repository(kind, url, asked.get("visibility") == "private")
        return self._answer(200, {"url": url, "name": name})

    def _preupload(self, repository: Repository, body: bytes) -> None:
        files = []
        for file in json.loads(body)["files"]:
            held = repository.files.get(file["path"])
            large = file["size"] > LARGE
            known = None if held is None else hashlib.sha256(held).hexdigest() if large else _git_oid(held)
            mode = "lfs" if large else "regular"
            files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": known})
        self._answer(200, {"files": files})

    def _batch(self, asked: dict[str, Any]) -> None:
        objects = []
        for one in asked["objects"]:
            upload = {"upload": {"href": f"{self.hub.url}/lfs/{one['oid']}", "header": {}}}
            objects.append({**one, **({} if one["oid"] in self.hub.large else {"actions": upload})})
        self._answer(200, {"transfer": "basic", "objects": objects})

    def _commit(self, repository: Repository, body: bytes) -> None:
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                repository.commits.append(value["summary"])
            elif line["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                repository.files[value["path"]] = self.hub.large[value["oid"]]
        oid = f"{len(repository.commits):040x}"
        self._answer(200, {"success": True, "commitOid": oid, "commitUrl": f"{repository.url}/commit/{oid}"})


def _git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
