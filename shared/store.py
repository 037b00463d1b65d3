"""The object store: the only truth. Blobs by content, artifacts as manifests, results put once.

Keys:
    blobs/<sha256>                        a file's bytes
    artifacts/<sha256>                    a manifest: kind, files, parts, lineage
    about/<artifact>/<scores>             scores that speak of a model
    requests/<recipe>/<inputs>            what a task is to do
    results/<recipe>/<inputs>             a task's result: put if absent, which is the commit
    attempts/<recipe>/<inputs>/<n>[.end]  an attempt, and how it ended
    dead/<recipe>/<inputs>                a task that used up its attempts, with the cause
    scratch/<recipe>/<inputs>/…           a verb's durable bytes until its result is committed
    scratch/teacher/…                     the teachers' journal, for all tasks and for good
    spent/<recipe>/<inputs>/<owner>       what an attempt paid for its teacher
    runs/<id>/{plan,cancelled,ended}      a run
    runs/<id>/{limit,paused}              what it may spend, where that was changed; the limit it is paused at
    names/{datasets,models}/<name>        mutable names for artifacts
"""

import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
import threading
import uuid
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime, timedelta
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import urllib3
from minio import Minio
from minio.error import MinioException, S3Error

from shared.contracts import Kind
from shared.errors import NotInStoreError, StoreError
from shared.schema import Clip, Frozen, read_jsonl
from shared.settings import Settings, settings

_CHUNK = 1 << 20
# At each retry it would log the URL, which is signed.
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)


class File(Frozen):
    """One file of an artifact."""

    path: str
    digest: str
    size: int


class Lineage(Frozen):
    """Which stage made an artifact, from what."""

    stage: str
    version: int
    recipe: dict[str, Any]
    inputs: dict[str, tuple[str, ...]]


class Manifest(Frozen):
    """An artifact. A dataset has parts (rows artifacts) and no files of its own."""

    kind: Kind
    files: tuple[File, ...] = ()
    parts: tuple[str, ...] = ()
    lineage: Lineage | None = None

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


def canonical(value: Any) -> bytes:
    """JSON with one possible spelling, for hashing."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _raise(error: Exception, key: str) -> StoreError:
    if isinstance(error, S3Error) and error.code in ("NoSuchKey", "NoSuchObject"):
        return NotInStoreError(f"not in the store: {key}")
    if isinstance(error, S3Error):
        return StoreError(f"the object store refused {key}: {error.code}: {error.message}")
    return StoreError(f"the object store does not answer ({type(error).__name__}); check ROADQA_S3_ENDPOINT: {key}")


@contextmanager
def _translated(key: str) -> Iterator[None]:
    try:
        yield
    except (MinioException, urllib3.exceptions.HTTPError, OSError) as error:
        raise _raise(error, key) from None  # urllib3's own message spells out the signed URL


@contextmanager
def _locked(folder: Path, how: int = fcntl.LOCK_EX) -> Iterator[None]:
    """Hold the kernel's lock on a folder; it ends with this process, however that ends."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, how)
        yield
    finally:
        os.close(descriptor)


def _remove_unless_held(folder: Path) -> None:
    # FileNotFoundError: its owner was done with it meanwhile
    with suppress(BlockingIOError, FileNotFoundError), _locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB):
        shutil.rmtree(folder, ignore_errors=True)


def _private(path: str, flags: int) -> int:
    """Open a file that only its owner may read: clips show faces and plates."""
    return os.open(path, flags, 0o600)


def _next(chunks: Iterator[bytes], key: str) -> bytes:
    """The next chunk of a download; empty at its end."""
    with _translated(key):
        return next(chunks, b"")


class Store:
    """Typed access to the bucket, with a bounded local cache of blobs."""

    def __init__(self, config: Settings) -> None:
        self._config = config
        self._bucket = config.s3_bucket
        self._http = urllib3.PoolManager(
            maxsize=16,
            timeout=urllib3.Timeout(connect=5, read=60),
            retries=urllib3.Retry(total=5, backoff_factor=0.2, status_forcelist=[500, 502, 503, 504]),
        )
        try:
            self._minio = Minio(
                config.s3_endpoint,
                access_key=config.s3_access_key,
                secret_key=config.s3_secret_key.get_secret_value(),
                secure=config.s3_secure,
                region="us-east-1",
                http_client=self._http,
            )
        except ValueError as error:
            raise StoreError(f"the object store's settings: {error}; check ROADQA_S3_*, or `make up`") from error
        self.cache = config.cache_dir
        self._evicting = threading.Lock()
        self._room = 0  #: bytes that may be cached before the cache is looked through

    # --- plain objects -------------------------------------------------------------------------

    def read(self, key: str) -> bytes:
        """An object's bytes. Raises NotInStoreError."""
        with _translated(key):
            response = self._minio.get_object(self._bucket, key)
            try:
                return response.read()
            finally:
                response.close()
                response.release_conn()

    def find(self, key: str) -> bytes | None:
        """An object's bytes, None where it does not exist."""
        try:
            return self.read(key)
        except NotInStoreError:
            return None

    def write(self, key: str, data: bytes) -> None:
        """Put, over whatever is there. For names and marks, never for results."""
        with _translated(key):
            self._minio.put_object(self._bucket, key, BytesIO(data), len(data))

    def write_file(self, key: str, path: Path) -> None:
        """Put a file of any size (multipart where it is large)."""
        with _translated(key):
            self._minio.fput_object(self._bucket, key, str(path))

    def read_to(self, key: str, path: Path) -> None:
        with _translated(key):
            self._minio.fget_object(self._bucket, key, str(path))

    def write_if_absent(self, key: str, data: bytes) -> bool:
        """Put unless the key exists; True for the one writer who wins.

        minio-py has no public conditional put, so a presigned URL carries `If-None-Match`.
        """
        status = 409
        while status == 409:  # AWS saw two conditional writes at once, and asks to try again
            with _translated(key):
                url = self._minio.presigned_put_object(self._bucket, key, expires=timedelta(minutes=5))
                status = self._http.request("PUT", url, body=data, headers={"If-None-Match": "*"}).status
        if status in (200, 412):
            return status == 200
        raise StoreError(f"the object store answered {status} to a conditional put of {key}")

    def modified(self, key: str) -> datetime | None:
        """When an object was written, by the store's clock; None where it does not exist."""
        try:
            with _translated(key):
                return self._minio.stat_object(self._bucket, key).last_modified
        except NotInStoreError:
            return None

    def exists(self, key: str) -> bool:
        return self.modified(key) is not None

    def keys(self, prefix: str) -> Iterator[str]:
        """All keys below a prefix, in order."""
        with _translated(prefix):
            for item in self._minio.list_objects(self._bucket, prefix=prefix, recursive=True):
                if item.object_name is not None and not item.is_dir:
                    yield item.object_name

    def delete(self, key: str) -> None:
        with _translated(key):
            self._minio.remove_object(self._bucket, key)

    def prepare(self) -> None:
        """Make the bucket and refuse a server whose conditional put does not hold.

        Raises:
            StoreError: several writers won one key; results could be overwritten there.
        """
        with _translated(self._bucket):
            if not self._minio.bucket_exists(self._bucket):
                self._minio.make_bucket(self._bucket)
        key = f"probe/{uuid.uuid4().hex}"
        with ThreadPoolExecutor(8) as pool:
            winners = sum(pool.map(lambda n: self.write_if_absent(key, str(n).encode()), range(8)))
        again = self.write_if_absent(key, b"late")
        self.delete(key)
        if winners != 1 or again:
            raise StoreError(
                f"the object store let {winners + again} writers win one conditional put (If-None-Match); "
                "results would be overwritten: use MinIO, AWS S3 or SeaweedFS 4.48 or later"
            )

    # --- blobs -----------------------------------------------------------------------------------

    def put_blob(self, path: Path, digest: str | None = None) -> File:
        """Store a file under its digest, once."""
        digest = digest or file_digest(path)
        size = path.stat().st_size
        key = f"blobs/{digest}"
        if not self.exists(key):
            self.write_file(key, path)
        return File(path=path.name, digest=digest, size=size)

    def get_blob(self, digest: str, link: Path) -> None:
        """Link a blob to `link` by way of the local cache, its digest checked on download.

        The link outlives the blob's eviction, which may come at any time.
        """
        path = self.cache / "blobs" / digest
        link.parent.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            os.link(path, link)
            os.utime(link)
            return
        # not in the cache: what a killed worker leaves half done goes with its workspace
        with open(link, "xb", opener=_private) as out:
            try:
                size = self._download(f"blobs/{digest}", out, digest)
            except BaseException:
                link.unlink()
                raise
        with suppress(FileExistsError):  # another thread was first
            os.link(link, path)
        self._evict(size)

    def _download(self, key: str, out: Any, digest: str) -> int:
        """Bytes written."""
        seen, size = hashlib.sha256(), 0
        with _translated(key):
            response = self._minio.get_object(self._bucket, key)
        try:
            chunks = response.stream(_CHUNK)
            while chunk := _next(chunks, key):
                seen.update(chunk)
                size += len(chunk)
                out.write(chunk)  # a full disk is no failure of the store
        finally:
            response.close()
            response.release_conn()
        if seen.hexdigest() != digest:
            raise StoreError(f"{key} is damaged in the store: its bytes hash to {seen.hexdigest()[:16]}…")
        return size

    def _evict(self, added: int) -> None:
        """Drop the blobs that were used longest ago where the cache is over its bound.

        The cache is looked through no more often than a 32nd of its bound is added, or the time would grow with the
        square of the blobs; so other processes that share it may take it over its bound by as much, each.
        """
        with self._evicting:
            self._room -= added
            if self._room >= 0:
                return
            step = self._config.cache_bytes // 32
            blobs = list(self._cached())
            total = sum(stat.st_size for stat, _ in blobs)
            if total > self._config.cache_bytes:
                for stat, path in sorted(blobs, key=lambda blob: blob[0].st_mtime):
                    if total <= self._config.cache_bytes - step:
                        break
                    path.unlink(missing_ok=True)
                    total -= stat.st_size
            self._room = min(step, self._config.cache_bytes - total)

    def _cached(self) -> Iterator[tuple[os.stat_result, Path]]:
        for path in (self.cache / "blobs").iterdir():
            with suppress(FileNotFoundError):  # another process was first to drop it
                yield path.stat(), path

    # --- artifacts -------------------------------------------------------------------------------

    def put_artifact(
        self,
        kind: Kind,
        folder: Path,
        lineage: Lineage | None = None,
        on_file: Callable[[int, int], None] | None = None,
    ) -> str:
        """Store a folder; returns the artifact's id. `on_file(done, total)` is told after each file.

        Clips of rows are named by digest and may already be in the store without being in the folder.
        """
        paths = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}
        done: list[File] = []
        with ThreadPoolExecutor(8) as pool:
            uploads = {
                name: pool.submit(self.put_blob, path, Path(name).name if name.startswith("clips/") else None)
                for name, path in paths.items()
            }
            for name, upload in uploads.items():
                done.append(upload.result().model_copy(update={"path": name}))
                if on_file:
                    on_file(len(done), len(paths))
        if kind == "rows":
            done += [
                File(path=f"clips/{clip.digest}", digest=clip.digest, size=clip.size_bytes)
                for clip in read_jsonl(folder / "clips.jsonl", Clip)
                if f"clips/{clip.digest}" not in paths
            ]
        return self.put_manifest(Manifest(kind=kind, files=tuple(sorted(done, key=lambda f: f.path)), lineage=lineage))

    def put_manifest(self, manifest: Manifest) -> str:
        data = canonical(manifest.model_dump(mode="json"))
        digest = hashlib.sha256(data).hexdigest()
        self.write_if_absent(f"artifacts/{digest}", data)
        return digest

    def manifest(self, artifact: str) -> Manifest:
        """Raises NotInStoreError where there is no such artifact."""
        return Manifest.model_validate_json(self.read(f"artifacts/{artifact}"))

    def get_artifact(self, artifact: str, folder: Path, *, clips: bool = True, only: Collection[str] = ()) -> Manifest:
        """Lay an artifact's files out in `folder` as links into the cache; `only` these of them, where it names any."""
        manifest = self.manifest(artifact)
        wanted = [file for file in manifest.files if clips or not file.path.startswith("clips/")]
        wanted = [file for file in wanted if file.path in only] if only else wanted
        with ThreadPoolExecutor(8) as pool:
            for _ in pool.map(lambda file: self.get_blob(file.digest, folder / file.path), wanted):
                pass
        return manifest

    def read_file(self, artifact: str, path: str) -> bytes:
        """The bytes of one small file of an artifact. Raises NotInStoreError."""
        for file in self.manifest(artifact).files:
            if file.path == path:
                with self.workspace() as space:
                    self.get_blob(file.digest, space / "file")
                    return (space / "file").read_bytes()
        raise NotInStoreError(f"artifact {artifact[:12]} has no file {path}")

    @contextmanager
    def workspace(self) -> Iterator[Path]:
        """A temporary folder on the cache's file system, so that links into the cache work.

        Its owner holds a kernel lock on it, which dies with the process: who makes the next workspace
        takes away what killed workers left.
        """
        parent = self.cache / "work"
        parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as held:
            with _locked(parent):
                for left in parent.iterdir():
                    _remove_unless_held(left)
                folder = Path(tempfile.mkdtemp(dir=parent))
                held.enter_context(_locked(folder))
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    # --- names -----------------------------------------------------------------------------------

    def set_name(self, kind: str, name: str, artifact: str) -> None:
        self.write(f"names/{kind}/{name}", artifact.encode())

    def named(self, kind: str, name: str) -> str | None:
        """The artifact called `name` (`kind`: datasets or models), None where there is none."""
        found = self.find(f"names/{kind}/{name}")
        return found.decode() if found else None

    def names(self, kind: str) -> dict[str, str]:
        prefix = f"names/{kind}/"
        return {key.removeprefix(prefix): self.read(key).decode() for key in self.keys(prefix)}


class StoreScratch:
    """`shared.context.Scratch` below `scratch/<task>/` in the store."""

    def __init__(self, store: Store, task: str) -> None:
        self.task = task
        self._store = store
        self._root = f"scratch/{task}/"

    def get(self, key: str) -> bytes | None:
        return self._store.find(f"{self._root}bytes/{key}")

    def put(self, key: str, data: bytes) -> None:
        self._store.write_if_absent(f"{self._root}bytes/{key}", data)

    def keys(self, prefix: str = "") -> Iterator[str]:
        root = f"{self._root}bytes/"
        return (key.removeprefix(root) for key in self._store.keys(root + prefix))

    def put_folder(self, name: str, folder: Path) -> None:
        """The mark `<name>` is written last: a folder without it is not there, and one with it does not change."""
        if self._store.exists(f"{self._root}folders/{name}"):
            return
        root = f"{self._root}files/{name}/"
        paths = [path for path in folder.rglob("*") if path.is_file()]
        with ThreadPoolExecutor(8) as pool:
            for _ in pool.map(
                lambda path: self._store.write_file(root + path.relative_to(folder).as_posix(), path), paths
            ):
                pass
        self._store.write_if_absent(f"{self._root}folders/{name}", b"complete")

    def get_folder(self, name: str, folder: Path) -> bool:
        if not self._store.exists(f"{self._root}folders/{name}"):
            return False
        root = f"{self._root}files/{name}/"
        keys = list(self._store.keys(root))
        for key in keys:
            (folder / key.removeprefix(root)).parent.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(8) as pool:
            for _ in pool.map(lambda key: self._store.read_to(key, folder / key.removeprefix(root)), keys):
                pass
        return True

    def folders(self) -> list[str]:
        root = f"{self._root}folders/"
        return sorted(key.removeprefix(root) for key in self._store.keys(root))

    def drop_folder(self, name: str) -> None:
        """The mark goes first, so that a half-dropped folder is never taken for a whole one."""
        self._store.delete(f"{self._root}folders/{name}")
        for key in list(self._store.keys(f"{self._root}files/{name}/")):
            self._store.delete(key)

    def clear(self) -> None:
        for key in list(self._store.keys(self._root)):
            self._store.delete(key)


@lru_cache(maxsize=1)
def store() -> Store:
    """The process's store."""
    return Store(settings())
