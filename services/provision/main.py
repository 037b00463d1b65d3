"""Prepares an empty MinIO: the bucket, and a user who may use that bucket and nothing else. Safe to repeat.

`python -m services.provision.main [--bucket-only]`, with the administrator's name and password as
`ROADQA_STORE_ROOT_USER` and `ROADQA_STORE_ROOT_PASSWORD`, or in files of these names in /run/secrets.
Run again after a password has changed, it gives the user the new one.
"""

import argparse
import sys

import urllib3
from minio import Minio, MinioAdmin
from minio.credentials.providers import StaticProvider
from minio.error import MinioAdminException, MinioException

from shared.errors import RoadQAError, StoreError, UsageError
from shared.settings import Settings, settings

#: What `shared/store.py` does, and no more: no bucket is made or removed, no other is seen.
_ON_BUCKET = ["s3:GetBucketLocation", "s3:ListBucket", "s3:ListBucketMultipartUploads"]
_ON_OBJECTS = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload",
               "s3:ListMultipartUploadParts"]  # fmt: skip


def policy(bucket: str) -> dict[str, object]:
    """The S3 policy of a user of `bucket`."""
    return {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": _ON_BUCKET, "Resource": [f"arn:aws:s3:::{bucket}"]},
            {"Effect": "Allow", "Action": _ON_OBJECTS, "Resource": [f"arn:aws:s3:::{bucket}/*"]},
        ],
    }


def make_bucket(config: Settings, root: StaticProvider) -> None:
    """Make the bucket where it is missing.

    Raises:
        StoreError: the server does not answer, or refuses.
    """
    client = Minio(config.s3_endpoint, credentials=root, secure=config.s3_secure)
    try:
        if not client.bucket_exists(config.s3_bucket):
            client.make_bucket(config.s3_bucket)
    except (MinioException, urllib3.exceptions.HTTPError) as error:
        raise StoreError(f"the bucket {config.s3_bucket} cannot be made: {error}") from None


def make_user(config: Settings, root: StaticProvider) -> None:
    """Make the user of `ROADQA_S3_ACCESS_KEY`, or give it its new password, and bind it to the bucket.

    Raises:
        StoreError: the server does not answer, or refuses; or has no MinIO admin API.
    """
    admin = MinioAdmin(endpoint=config.s3_endpoint, credentials=root, secure=config.s3_secure)
    name = f"roadqa-{config.s3_bucket}"
    try:
        admin.policy_add(name, policy=policy(config.s3_bucket))
        admin.user_add(config.s3_access_key, config.s3_secret_key.get_secret_value())
        admin.policy_set(name, user=config.s3_access_key)
    except (MinioAdminException, MinioException, urllib3.exceptions.HTTPError) as error:
        raise StoreError(
            f"the user {config.s3_access_key} cannot be made: {error}; where the server is not MinIO, make the user"
            " by its own means and give --bucket-only"
        ) from None


def main() -> None:
    """Prepare the store that the settings name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bucket-only", action="store_true", help="make no user: the server is not MinIO")
    given = parser.parse_args()
    config = settings()
    password = config.store_root_password.get_secret_value()
    if not (config.store_root_user and password):
        raise UsageError("set ROADQA_STORE_ROOT_USER and ROADQA_STORE_ROOT_PASSWORD: the object store's administrator")
    root = StaticProvider(config.store_root_user, password)
    make_bucket(config, root)
    if not given.bucket_only:
        make_user(config, root)
    print(f"bucket {config.s3_bucket}: ready" + ("" if given.bucket_only else f"; user {config.s3_access_key}: ready"))


if __name__ == "__main__":
    try:
        main()
    except RoadQAError as error:
        sys.exit(f"roadqa: {error}")
