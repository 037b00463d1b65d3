"""The search for secrets in images finds one wherever it stands."""

import gzip
import io
import tarfile

import pytest

from tests.containers import layers

PLANTED = "a-password-of-thirty-two-letters."


def tar(**files: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as packed:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            packed.addfile(info, io.BytesIO(data))
    return out.getvalue()


def saved(layer: bytes) -> io.BytesIO:
    return io.BytesIO(tar(config=b"{}", first=tar(etc=b"nothing"), second=layer))


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("before", [0, 10, (1 << 22) - 1536 - 16, 1 << 22, 5_000_000])
def test_a_secret_in_a_layer_is_found(before: int, pack: type[bytes]) -> None:
    """Also across the border of what is read at once."""
    layer = pack(tar(file=b"x" * before + PLANTED.encode() + b"y" * 100))
    assert layers.found(saved(layer), {PLANTED, "another"}) == {PLANTED}


def test_where_there_is_none_none_is_found() -> None:
    assert layers.found(saved(tar(file=PLANTED[:-1].encode() * 1000)), {PLANTED}) == set()
