"""Names of the hub: what is kept, what is fetched, what is refused. The hub is a server on this machine."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
import time
import typing
from pathlib import Path

import pytest

from saccade.errors import SaccadeError
from saccade.hub.fetch import fetch, is_name

pytest.importorskip("huggingface_hub")
COMMIT, OLDER = "a" * 40, "b" * 40
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    "model.safetensors": bytes(range(256)) * 43_000,  # more than a chunk of 10 MiB
    "pytorch_model.bin": b"pickle",
    "modeling.py": b"raise SystemExit",
}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def cache(tmp_path):
    """A download cache as huggingface_hub lays it out, with one model in it."""
    model = tmp_path / "cache" / "models--somebody--small"
    for commit, ref in ((COMMIT, "main"), (OLDER, "v1")):
        (model / "refs").mkdir(parents=True, exist_ok=True)
        (model / "refs" / ref).write_text(commit)
        folder = model / "snapshots" / commit
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"commit": commit}))
    blob = model / "blobs" / sha256(FILES["model.safetensors"])
    blob.parent.mkdir()
    blob.write_bytes(FILES["model.safetensors"])
    (model / "snapshots" / COMMIT / "model.safetensors").symlink_to(blob)
    return tmp_path / "cache"


def test_what_is_kept_needs_no_network(cache):
    assert fetch("somebody/small", offline=True, cache=cache).name == COMMIT
    for pinned in ("somebody/small@v1", f"somebody/small@{OLDER}"):
        assert fetch(pinned, offline=True, cache=cache).name == OLDER
    assert fetch("somebody/small", revision="v1", offline=True, cache=cache).name == OLDER


def test_a_damaged_download_is_noticed(cache):
    blob = next((cache / "models--somebody--small" / "blobs").iterdir())
    blob.write_bytes(b"x" + blob.read_bytes()[1:])
    with pytest.raises(
        SaccadeError, match=rf"is damaged: its sha256 starts with \w+, expected {blob.name[:8]}"
    ):
        fetch("somebody/small", offline=True, cache=cache)


@pytest.mark.parametrize("name", ["somebody/other", "somebody/small@v9"])
def test_what_is_not_kept_is_told(cache, name):
    with pytest.raises(SaccadeError, match="is not among the downloads kept here"):
        fetch(name, offline=True, cache=cache)


@pytest.mark.parametrize("name", ["small", "a/b/c", "a b/c", "a/b@", "http://x/y"])
def test_what_is_no_name(name):
    assert not is_name(name)
    with pytest.raises(SaccadeError, match="is no name of the hub"):
        fetch(name)


class Hub(http.server.BaseHTTPRequestHandler):
    """What huggingface_hub asks of a hub. `cut`: bytes after which the weights break off, once; `hang`: they
    do not come to an end either."""

    asked: typing.ClassVar[list] = []
    cut: int | None = None
    hang: threading.Event | None = None

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def _answer(self, body: bool):
        path = self.path.split("?")[0]
        Hub.asked.append((self.command, path, self.headers.get("Range")))
        if path.startswith("/api/models/somebody/small"):
            tree = "/tree/" in path
            files = [{"type": "file", "path": n, "size": len(c), "oid": "0"} for n, c in FILES.items()]
            listing = {"id": "somebody/small", "sha": COMMIT, "siblings": [{"rfilename": n} for n in FILES]}
            return self._send(200, json.dumps(files if tree else listing).encode(), {}, body)
        name = path.rsplit("/", 1)[-1]
        if path.startswith("/somebody/small/resolve/") and name in FILES:
            content = FILES[name]
            headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{sha256(content)}"', "Accept-Ranges": "bytes"}
            start = int((self.headers.get("Range") or "bytes=0-").split("=")[1].split("-")[0])
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            return self._send(206 if start else 200, content[start:], headers, body, name)
        return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, body)

    def _send(self, status, content: bytes, headers: dict, body: bool, name: str = ""):
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if not body:
            return
        if name == "model.safetensors" and Hub.cut is not None:
            content, Hub.cut = content[: Hub.cut], None
            self.close_connection = True
        self.wfile.write(content)
        if self.close_connection and Hub.hang is not None:
            self.wfile.flush()
            Hub.hang.wait()


@pytest.fixture
def hub():
    Hub.asked, Hub.cut, Hub.hang = [], None, None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def elsewhere(hub: str, name: str, cache: Path, **more) -> subprocess.Popen:
    """In a process of its own: huggingface_hub reads where the hub is when it is imported."""
    code = (
        "import sys\nfrom saccade.errors import SaccadeError\nfrom saccade.hub.fetch import fetch\n"
        "try: print(fetch(sys.argv[1], cache=sys.argv[2]))\nexcept SaccadeError as e: print('refused:', e)\n"
    )
    root = Path(__file__).resolve().parents[2]
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub,
        "HF_HUB_DISABLE_XET": "1",
        "PYTHONPATH": str(root),
        **more,
    }
    command = [sys.executable, "-c", code, name, str(cache)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, **pipes)


def fetch_elsewhere(hub: str, name: str, cache: Path, **more) -> str:
    """What it prints last."""
    run = elsewhere(hub, name, cache, **more)
    out, err = run.communicate(timeout=200)
    assert run.returncode == 0, err
    return out.strip().splitlines()[-1]


def starts() -> list:
    """Where the hub was asked to begin with the weights, if not at their start."""
    return [r for c, path, r in Hub.asked if c == "GET" and path.endswith("model.safetensors") and r]


def test_only_data_is_fetched_and_then_kept(hub, tmp_path):
    folder = Path(fetch_elsewhere(hub, "somebody/small", tmp_path))
    assert folder.name == COMMIT
    assert {file.name for file in folder.iterdir()} == {"config.json", "tokenizer.json", "model.safetensors"}
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    downloads = [path for command, path, _ in Hub.asked if command == "GET" and "/resolve/" in path]
    assert len(downloads) == 3
    asked = len(Hub.asked)
    assert fetch_elsewhere(hub, "somebody/small", tmp_path, HF_HUB_OFFLINE="1") == str(folder)
    assert len(Hub.asked) == asked


def test_a_broken_connection_is_taken_up_again(hub, tmp_path):
    Hub.cut = 10_800_000
    folder = Path(fetch_elsewhere(hub, "somebody/small", tmp_path))
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert starts() == [f"bytes={10 * 2**20}-"]  # whole chunks are kept


def test_a_killed_download_goes_on_in_the_next_run(hub, tmp_path):
    Hub.cut, Hub.hang = 10_800_000, threading.Event()
    run = elsewhere(hub, "somebody/small", tmp_path)
    part = tmp_path / "models--somebody--small" / "blobs" / f"{sha256(FILES['model.safetensors'])}.part"
    end = time.monotonic() + 100
    while not part.exists() or part.stat().st_size < 10 * 2**20:
        assert run.poll() is None, run.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)
    run.kill()
    run.communicate()
    Hub.hang.set()
    assert not starts()
    folder = Path(fetch_elsewhere(hub, "somebody/small", tmp_path))
    assert starts() == [f"bytes={10 * 2**20}-"]
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert not part.exists()


def test_a_pinned_commit_is_what_is_asked_for(hub, tmp_path):
    fetch_elsewhere(hub, f"somebody/small@{COMMIT}", tmp_path)
    asked = [path for _, path, _ in Hub.asked if "/resolve/" in path]
    assert asked
    assert all(f"/resolve/{COMMIT}/" in path for path in asked)


def test_a_model_that_the_hub_does_not_have(hub, tmp_path):
    said = fetch_elsewhere(hub, "somebody/other", tmp_path)
    assert said.startswith("refused: there is no model 'somebody/other' on the hub")


def test_no_hub_at_all(tmp_path):
    said = fetch_elsewhere("http://127.0.0.1:9", "somebody/small", tmp_path)
    assert said.startswith("refused: somebody/small")
    assert len(said) < 400
