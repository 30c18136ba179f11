"""A hub on the loopback: what huggingface_hub asks of the real one to fetch and to push a model, and its refusals."""

import base64
import contextlib
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest

TOKEN, USER = "hf_a_token_of_somebody", "somebody"
LFS_FROM = 10_000  # bytes from which a file is uploaded by itself, before the commit


@dataclass
class Repository:
    """What lies under a name. commits: {id: {path: content}}, the newest last."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def commit(self, files):
        content = json.dumps({path: hashlib.sha256(data).hexdigest() for path, data in files.items()}, sort_keys=True)
        name = hashlib.sha1(f"{len(self.commits)} {content}".encode()).hexdigest()
        self.commits[name] = dict(files)
        return name

    @property
    def newest(self):
        return list(self.commits)[-1]

    @property
    def files(self):
        return self.commits[self.newest]


class FakeHub:
    """repositories: {"owner/name": Repository}. asked: what was asked, "GET /api/...". failing: {pattern of such a
    line: status it is answered with}."""

    def __init__(self):
        self.repositories, self.objects, self.asked, self.failing = {}, {}, [], {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.hub, self._server.daemon_threads = self, True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def put(self, name, folder=None, files=(), **settings):
        """A model with the files of a folder, and more."""
        found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")} if folder else {}
        content = {name: path.read_bytes() for name, path in found.items() if path.is_file()} | dict(files)
        repository = self.repositories.setdefault(name, Repository(**settings))
        repository.commit(content)
        return repository

    def downloads(self):
        """The files that were fetched, not only asked about."""
        found = (re.fullmatch("GET .*/resolve/[^/]+/(.+)", line) for line in self.asked)
        return [one[1] for one in found if one]

    def environment(self, cache, token=TOKEN):
        """What a child process needs to take this for the hub."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HUB_CACHE": str(cache),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
            "HF_TOKEN": token,
        }

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextlib.contextmanager
def fake_hub(cache, token=None):
    """A FakeHub that this process takes for the hub; cache: a folder. token: TOKEN, who is logged in."""
    from huggingface_hub import constants

    hub = FakeHub()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", hub.url)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        patch.setattr(constants, "HF_TOKEN_PATH", str(cache / "no_token"))
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            patch.delenv(name, raising=False)
        if token:
            patch.setenv("HF_TOKEN", token)
        try:
            yield hub
        finally:
            hub.close()


class _Refused(Exception):
    def __init__(self, status, code="", message=""):
        super().__init__(status, code, message)
        self.status, self.headers = status, {"X-Error-Code": code, "X-Error-Message": message}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def _answer(self):
        hub = self.server.hub
        path = urlsplit(self.path).path
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        line = f"{self.command} {path}"
        hub.asked.append(line)
        try:
            for pattern, status in hub.failing.items():
                if re.search(pattern, line):
                    raise _Refused(status, message="as the test wants it")
            status, headers, content = 200, {}, self._content(path, body)
            if isinstance(content, tuple):
                headers, content = content
        except _Refused as refusal:
            status, headers, content = refusal.status, refusal.headers, {"error": refusal.headers["X-Error-Message"]}
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **{k: v for k, v in headers.items() if v}}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_HEAD = do_POST = do_PUT = _answer

    def _content(self, path, body):
        for pattern, method in ROUTES.items():
            if found := re.fullmatch(pattern, f"{self.command} {path}"):
                return method(self, *map(unquote, found.groups()), *([body] if self.command in ("POST", "PUT") else []))
        raise _Refused(404)

    def _user(self):
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token != TOKEN:
            raise _Refused(401, message="Invalid credentials in Authorization header")
        return USER if token else None

    def _find(self, name, revision="main", files=False):
        """(Repository, id of the commit); files: whether its content is wanted."""
        repository, user = self.server.hub.repositories.get(name), self._user()
        if repository is None or (repository.private and user != name.split("/")[0]):
            raise _Refused(404 if user else 401, "RepoNotFound", "Repository not found")
        if repository.gated and files:
            raise _Refused(403 if user else 401, "GatedRepo", "Access to this model is restricted")
        commit = repository.newest if revision in ("main", None) else revision
        if commit not in repository.commits:
            raise _Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repository, commit

    def _owned(self, name):
        user = self._user()
        if user is None:
            raise _Refused(401, message="Invalid username or password.")
        if user != name.split("/")[0]:
            raise _Refused(403, message=f"You don't have the rights to write to {name}")
        return self._find(name)[0]

    def whoami(self):
        user = self._user()
        if user is None:
            raise _Refused(401, message="Invalid credentials in Authorization header")
        return {"type": "user", "name": user, "orgs": []}

    def info(self, name, revision=None):
        repository, commit = self._find(name, revision)
        siblings = [{"rfilename": path} for path in repository.commits[commit]]
        return {
            "id": name,
            "sha": commit,
            "private": repository.private,
            "gated": repository.gated,
            "siblings": siblings,
        }

    def tree(self, name, revision, below=""):
        repository, commit = self._find(name, revision)
        files = {path: data for path, data in repository.commits[commit].items() if path.startswith(below)}
        if below and not files:
            raise _Refused(404, "EntryNotFound", f"{below} does not exist")
        return [
            {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for path, data in files.items()
        ]

    def file(self, name, revision, path):
        repository, commit = self._find(name, revision, files=True)
        data = repository.commits[commit].get(path)
        if data is None:
            raise _Refused(404, "EntryNotFound", "Entry not found")
        return {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(data).hexdigest()}"'}, data

    def create(self, body):
        wanted = json.loads(body)
        name = f"{wanted['organization']}/{wanted['name']}"
        if self._user() != wanted["organization"]:
            raise _Refused(403, message=f"You don't have the rights to create a model under {wanted['organization']}")
        if name in self.server.hub.repositories:
            raise _Refused(409, message="You already created this model repo")
        private = bool(wanted.get("private") or wanted.get("visibility") == "private")
        repository = self.server.hub.repositories[name] = Repository(private)
        repository.commit({".gitattributes": b"*.safetensors filter=lfs\n"})
        return {"url": f"{self.server.hub.url}/{name}", "name": name, "id": name}

    def check_card(self, body):
        return {"errors": [], "warnings": []}

    def ask_modes(self, name, revision, body):
        self._owned(name)
        files = json.loads(body)["files"]
        modes = {file["path"]: "lfs" if file["size"] >= LFS_FROM else "regular" for file in files}
        return {"files": [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in modes.items()]}

    def ask_uploads(self, name, body):
        self._owned(name)
        known, objects = self.server.hub.objects, json.loads(body)["objects"]
        href = f"{self.server.hub.url}/uploads/"
        for one in objects:
            if one["oid"] not in known:
                one["actions"] = {"upload": {"href": href + one["oid"], "header": {}}}
        return {"transfer": "basic", "objects": objects}

    def upload(self, oid, body):
        if hashlib.sha256(body).hexdigest() != oid:
            raise _Refused(400)
        self.server.hub.objects[oid] = body
        return {}

    def commit(self, name, revision, body):
        repository = self._owned(name)
        lines = [json.loads(line) for line in body.splitlines()]
        (header,) = [line["value"] for line in lines if line["key"] == "header"]
        if header.get("parentCommit") not in (None, repository.newest):
            raise _Refused(412, message="A commit has happened since")
        files = dict(repository.files)
        for line in lines:
            key, value = line["key"], line["value"]
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.server.hub.objects[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
        commit = repository.commit(files)
        return {"commitUrl": f"{self.server.hub.url}/{name}/commit/{commit}", "commitOid": commit}


NAME = r"([^/]+/[^/]+)"
ROUTES = {
    "GET /api/whoami-v2": _Handler.whoami,
    f"GET /api/models/{NAME}": _Handler.info,
    f"GET /api/models/{NAME}/revision/(.+)": _Handler.info,
    f"GET /api/models/{NAME}/tree/([^/]+)": _Handler.tree,
    f"GET /api/models/{NAME}/tree/([^/]+)/(.+)": _Handler.tree,
    f"(?:GET|HEAD) /{NAME}/resolve/([^/]+)/(.+)": _Handler.file,
    "POST /api/repos/create": _Handler.create,
    "POST /api/validate-yaml": _Handler.check_card,
    f"POST /api/models/{NAME}/preupload/(.+)": _Handler.ask_modes,
    rf"POST /{NAME}\.git/info/lfs/objects/batch": _Handler.ask_uploads,
    "PUT /uploads/(.+)": _Handler.upload,
    f"POST /api/models/{NAME}/commit/(.+)": _Handler.commit,
}
