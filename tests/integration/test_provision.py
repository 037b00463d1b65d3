"""The bucket is made on a real S3 server; the user against a server that speaks MinIO's admin protocol."""

import json
import secrets
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from urllib.parse import parse_qsl, urlsplit

import pytest
from minio.credentials.providers import StaticProvider
from minio.crypto import decrypt
from urllib3.response import HTTPResponse

from services.provision.main import make_bucket, make_user, policy
from shared.errors import StoreError
from shared.store import Store
from tests.conftest import settings_of

PASSWORD = secrets.token_urlsafe()
ROOT = StaticProvider("admin", secrets.token_urlsafe())


class Admin(BaseHTTPRequestHandler):
    """MinIO's admin API as far as it is used here; remembers what it was asked."""

    asked: list[tuple[str, dict[str, str], bytes]] = []
    status = 200

    def do_PUT(self) -> None:
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.asked.append((url.path, dict(parse_qsl(url.query)), body))
        self.send_response(self.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def admin(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(Admin, "asked", [])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Admin)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_the_bucket_is_made_once_and_can_be_used(servers: dict[str, str]) -> None:
    config = settings_of(servers, s3_bucket="provisioned")
    root = StaticProvider(config.s3_access_key, config.s3_secret_key.get_secret_value())
    for _ in range(2):
        make_bucket(config, root)
    Store(config).prepare()


def test_the_user_gets_its_password_and_this_bucket_alone(servers: dict[str, str], admin: str) -> None:
    config = settings_of(servers, s3_endpoint=admin, s3_access_key="someone", s3_secret_key=PASSWORD)
    make_user(config, ROOT)
    (made, user, bound) = Admin.asked
    assert made[0].endswith("/add-canned-policy")
    assert json.loads(made[2]) == policy("roadqa")
    assert user[1] == {"accessKey": "someone"}
    assert PASSWORD.encode() not in user[2]
    plain = decrypt(HTTPResponse(BytesIO(user[2]), preload_content=False), ROOT.retrieve().secret_key)
    assert json.loads(plain) == {"status": "enabled", "secretKey": PASSWORD}
    assert bound[1] == {"userOrGroup": "someone", "isGroup": "false", "policyName": made[1]["name"]}


def test_a_policy_names_no_other_bucket_and_no_way_to_make_one() -> None:
    statements = policy("clips")["Statement"]
    assert isinstance(statements, list)
    assert {resource for one in statements for resource in one["Resource"]} == {
        "arn:aws:s3:::clips",
        "arn:aws:s3:::clips/*",
    }
    actions = {action for one in statements for action in one["Action"]}
    assert not [action for action in actions if "*" in action or action in ("s3:CreateBucket", "s3:DeleteBucket")]


def test_a_refusal_says_what_to_do_and_shows_no_password(
    servers: dict[str, str], admin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Admin, "status", 403)
    config = settings_of(servers, s3_endpoint=admin, s3_secret_key=PASSWORD)
    with pytest.raises(StoreError, match="--bucket-only") as caught:
        make_user(config, ROOT)
    assert PASSWORD not in str(caught.value)
    assert ROOT.retrieve().secret_key not in str(caught.value)
