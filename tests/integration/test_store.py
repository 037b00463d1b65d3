"""What the object store promises, on a real S3 server."""

import json
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from shared.errors import NotInStoreError, StoreError
from shared.run import made
from shared.schema import Choice, Clip, Origin, Question, write_rows
from shared.settings import Settings
from shared.store import Lineage, Manifest, Store, StoreScratch, file_digest


def test_of_many_conditional_writers_exactly_one_wins(store: Store) -> None:
    with ThreadPoolExecutor(16) as pool:
        for key in range(10):
            outcomes = list(pool.map(lambda n, key=key: store.write_if_absent(f"race/{key}", b"%d" % n), range(16)))
            assert sum(outcomes) == 1
            assert store.read(f"race/{key}") == b"%d" % outcomes.index(True)


def test_a_file_is_stored_once_under_its_digest(store: Store, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"same bytes")
    first, second = store.put_blob(tmp_path / "a"), store.put_blob(tmp_path / "b")
    assert first.digest == second.digest == file_digest(tmp_path / "a")
    assert list(store.keys("blobs/")) == [f"blobs/{first.digest}"]


def test_an_artifact_comes_back_as_it_went_in(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "sub" / "weights").write_bytes(bytes(range(256)) * 5000)
    artifact = store.put_artifact("model", folder)
    assert store.put_artifact("model", folder) == artifact
    back = tmp_path / "cache" / "back"
    store.get_artifact(artifact, back)
    for name in ("config.json", "sub/weights"):
        assert (back / name).read_bytes() == (folder / name).read_bytes()


def test_a_flipped_byte_is_caught_on_download(store: Store, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"truth")
    digest = store.put_blob(tmp_path / "f").digest
    store.write(f"blobs/{digest}", b"trutH")
    with pytest.raises(StoreError, match="damaged"):
        store.get_blob(digest, tmp_path / "link")
    assert not (store.cache / "blobs" / digest).exists()
    assert not (tmp_path / "link").exists()


def test_rows_refer_to_clips_that_are_in_the_store_already(store: Store, tmp_path: Path) -> None:
    (tmp_path / "clip").write_bytes(b"frames")
    digest = store.put_blob(tmp_path / "clip").digest
    clip = Clip(
        digest=digest, name="c.mp4", recording="r", size_bytes=6, seconds=1, fps=1, width=1, height=1, codec="x"
    )
    question = Question(
        id="q", clip=digest, text="?", origin=Origin(answer="none"),
        choices=(Choice(label="A", text="a"), Choice(label="B", text="b")),
    )  # fmt: skip
    write_rows(tmp_path / "rows", [question], {digest: clip})
    artifact = store.put_artifact("rows", tmp_path / "rows")
    store.get_artifact(artifact, tmp_path / "cache" / "rows")
    assert (tmp_path / "cache" / "rows" / "clips" / digest).read_bytes() == b"frames"


_DIES = """
import os, signal, sys
from pathlib import Path
from tests.integration.test_store import store_of
with store_of(sys.argv[1]).workspace() as space:
    (space / "weights").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def store_of(settings: str) -> Store:
    return Store(Settings.model_validate_json(settings))


def test_what_a_killed_worker_left_is_taken_away_and_a_live_ones_stays(store: Store, config: Settings) -> None:
    secrets = {name: getattr(config, name).get_secret_value() for name in ("redis_url", "s3_secret_key")}
    settings = json.dumps(config.model_dump(mode="json") | secrets)
    died = subprocess.run([sys.executable, "-c", _DIES, settings], check=False)
    assert died.returncode == -signal.SIGKILL
    (left,) = (store.cache / "work").iterdir()
    assert (left / "weights").exists()
    with store.workspace() as live, store.workspace() as other:
        assert set((store.cache / "work").iterdir()) == {live, other}
    assert not list((store.cache / "work").iterdir())


def test_workspaces_come_and_go_side_by_side(store: Store) -> None:
    def use(number: int) -> bool:
        with store.workspace() as space:
            (space / "file").write_bytes(b"%d" % number)
            return (space / "file").read_bytes() == b"%d" % number

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(use, range(600)))


def test_what_a_model_was_trained_on_is_found_back_to_its_base(store: Store, tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"w")
    model = store.put_artifact("model", tmp_path)
    steps: list[tuple[str, dict[str, str], str]] = [("train", {}, "a"), ("train", {}, "b")]
    for stage, recipe, data in [*steps, ("quantize", {"scheme": "nvfp4a16"}, "c")]:
        lineage = Lineage(stage=stage, version=1, recipe=recipe, inputs={"model": (model,), "data": (data,)})
        model = store.put_artifact("model", tmp_path, lineage)
    assert made(store, model) == (("b", "a"), "nvfp4a16"), "nvfp4a16 looks at no rows"
    lineage = Lineage(stage="quantize", version=1, recipe={"scheme": "awq"}, inputs={"model": (model,), "data": ("d",)})
    assert made(store, store.put_artifact("model", tmp_path, lineage)) == (("d", "b", "a"), "awq")


def test_the_cache_stays_within_its_bound(config: Settings, tmp_path: Path) -> None:
    store = Store(config.model_copy(update={"cache_bytes": 3200}))
    store.prepare()
    digests = []
    for n in range(5):
        (tmp_path / str(n)).write_bytes(bytes([n]) * 1000)
        digests.append(store.put_blob(tmp_path / str(n)).digest)
        store.get_blob(digests[-1], tmp_path / f"link{n}")
    kept = {path.name for path in (store.cache / "blobs").iterdir()}
    assert kept == set(digests[2:])
    assert (tmp_path / "link0").read_bytes() == bytes([0]) * 1000, "what was handed out outlives its eviction"


def test_the_cache_is_not_looked_through_for_each_small_blob(
    config: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(config.model_copy(update={"cache_bytes": 32_000}))
    store.prepare()
    looks = []
    cached = store._cached
    monkeypatch.setattr(store, "_cached", lambda: looks.append(1) or cached())
    for n in range(100):
        (tmp_path / str(n)).write_bytes(b"%-100d" % n)
        store.get_blob(store.put_blob(tmp_path / str(n)).digest, tmp_path / f"link{n}")
    assert 9 <= len(looks) <= 11, "10,000 bytes, a 32nd of the bound at a time"


def test_an_artifact_larger_than_the_cache_still_comes_whole(config: Settings, tmp_path: Path) -> None:
    store = Store(config.model_copy(update={"cache_bytes": 10}))
    store.prepare()
    (tmp_path / "model").mkdir()
    for n in range(6):
        (tmp_path / "model" / str(n)).write_bytes(bytes([n]) * 1000)
    artifact = store.put_artifact("model", tmp_path / "model")
    store.get_artifact(artifact, tmp_path / "cache" / "back")
    assert [(tmp_path / "cache" / "back" / str(n)).read_bytes()[0] for n in range(6)] == list(range(6))


def test_only_its_owner_may_read_a_downloaded_blob(store: Store, tmp_path: Path) -> None:
    (tmp_path / "clip").write_bytes(b"faces and plates")
    digest = store.put_blob(tmp_path / "clip").digest
    store.get_blob(digest, tmp_path / "link")
    for path in (tmp_path / "link", store.cache / "blobs" / digest):
        assert path.stat().st_mode & 0o777 == 0o600


def test_what_is_missing_is_named(store: Store) -> None:
    assert store.find("nothing/here") is None
    with pytest.raises(NotInStoreError, match="nothing/here"):
        store.read("nothing/here")
    with pytest.raises(NotInStoreError):
        store.manifest("0" * 64)


def test_names_can_be_moved_and_listed(store: Store) -> None:
    first = store.put_manifest(Manifest(kind="dataset", parts=("a",)))
    second = store.put_manifest(Manifest(kind="dataset", parts=("b",)))
    store.set_name("datasets", "mine", first)
    store.set_name("datasets", "mine", second)
    assert store.named("datasets", "mine") == second
    assert store.names("datasets") == {"mine": second}


def test_scratch_keeps_the_first_bytes_and_whole_folders_only(store: Store, tmp_path: Path) -> None:
    scratch = StoreScratch(store, "recipe/input")
    scratch.put("votes/1", b"first")
    scratch.put("votes/1", b"second")
    assert scratch.get("votes/1") == b"first"
    assert list(scratch.keys("votes/")) == ["votes/1"]
    (tmp_path / "ckpt" / "deep").mkdir(parents=True)
    (tmp_path / "ckpt" / "deep" / "x").write_bytes(b"x")
    scratch.put_folder("step-1", tmp_path / "ckpt")
    assert scratch.folders() == ["step-1"]
    assert scratch.get_folder("step-1", tmp_path / "back")
    assert (tmp_path / "back" / "deep" / "x").read_bytes() == b"x"
    scratch.drop_folder("step-1")
    assert not scratch.get_folder("step-1", tmp_path / "gone")
    scratch.clear()
    assert scratch.get("votes/1") is None


class _Lying(BaseHTTPRequestHandler):
    """An S3 server that lets every conditional writer win."""

    def _ok(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(204 if self.command == "DELETE" else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_PUT = do_HEAD = do_DELETE = _ok  # noqa: N815 - names are the base class's

    def log_message(self, *_: object) -> None:
        """Nothing to say."""


def test_a_server_whose_conditional_put_does_not_hold_is_refused(config: Settings) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Lying)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    lying = config.model_copy(update={"s3_endpoint": f"127.0.0.1:{server.server_port}"})
    try:
        with pytest.raises(StoreError, match="9 writers win"):
            Store(lying).prepare()
    finally:
        server.shutdown()
        server.server_close()
