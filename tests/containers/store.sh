#!/bin/sh
# Stands in for MinIO's `minio server /data` and `mc ready local`: SeaweedFS, with the same two users from the same
# secrets: an administrator, and one who may read, write and list a single bucket.
set -eu
if [ "$(basename "$0")" = mc ]; then
    exec python3 -c 'import socket; socket.create_connection(("127.0.0.1", 9000), 3)'
fi
python3 - > /tmp/s3.json <<'PY'
import json, os
def secret(name):
    return open(f"/run/secrets/{name}").read()
def identity(user, password, actions):
    return {"name": user, "credentials": [{"accessKey": user, "secretKey": password}], "actions": actions}
root = identity(secret("roadqa_store_root_user"), secret("roadqa_store_root_password"), ["Admin", "Read", "List", "Write"])
user = identity(secret("roadqa_s3_access_key"), secret("roadqa_s3_secret_key"), [f"{a}:roadqa" for a in ("Read", "List", "Write")])
print(json.dumps({"identities": [root, user]}))
PY
exec weed server -dir=/data -ip=127.0.0.1 -ip.bind=0.0.0.0 -master.volumeSizeLimitMB=512 -master.telemetry=false \
    -volume.max=200 -volume.preStopSeconds=0 -filer -s3 -s3.port=9000 -s3.port.iceberg=0 -s3.port.lance=0 \
    -s3.config=/tmp/s3.json
