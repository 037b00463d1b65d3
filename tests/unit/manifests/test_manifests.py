"""The Kubernetes manifests, as every overlay renders them: against the API's schemas, and against our policies."""

import json
import tomllib
from collections.abc import Callable
from typing import Any

import kubernetes_validate
import pytest

from tests.unit.manifests import jobset, keda, policies
from tests.unit.manifests.rendered import K8S, OVERLAYS, ROOT, Document, jobs, name, pods, render

VERSIONS = ("1.36", "1.37")
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
GONE = object()  #: the value of a field that is taken away


# --- schemas ---------------------------------------------------------------------------------------


def complaints(doc: Document, version: str) -> list[str]:
    """What a Kubernetes of this version, and KEDA, have against a document."""
    if doc["kind"] == "JobSet":
        return [*jobset.check(doc), *(said for job in jobs(doc) for said in _schema(job, version))]
    if not doc["apiVersion"].startswith("keda.sh/"):
        return _schema(doc, version)
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": doc["metadata"]}
    template = doc["spec"].get("jobTargetRef")
    return [*keda.check(doc), *(_schema(job | {"spec": template}, version) if template else [])]


def _schema(doc: Document, version: str) -> list[str]:
    try:
        kubernetes_validate.validate(doc, version, strict=True)
    except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
        return [f"{name(doc)}: {error.message}"]
    return []


@pytest.mark.parametrize("version", VERSIONS)
def test_every_document_is_as_the_api_wants_it(version: str) -> None:
    unlike = {json.dumps(doc, sort_keys=True): doc for overlay in OVERLAYS for doc in render(overlay)}
    assert [said for doc in unlike.values() for said in complaints(doc, version)] == []


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("policy", policies.POLICIES, ids=lambda policy: policy.__name__)
def test_every_overlay_holds_to_every_policy(policy: policies.Policy, overlay: str) -> None:
    assert list(policy(render(overlay))) == []


# --- planted faults --------------------------------------------------------------------------------


def plant(docs: list[Document], where: str, path: str, value: Any) -> None:
    """Put a value, or nothing, at a dotted path of one document; numbers count in lists, `+` is a list's end."""
    at: Any = next(doc for doc in docs if name(doc) == where)
    *way, last = [int(key) if key.isdecimal() else key for key in path.split(".")]
    for key in way:
        at = at[key]
    if value is GONE:
        del at[last]
    elif last == "+":
        at.append(value)
    else:
        at[last] = value


POD = "spec.template.spec"
JOB = "spec.jobTargetRef.template.spec"
MAIN = f"{POD}.containers.0"
DEEP = f"{JOB}.containers.0"
SECRET = f"{POD}.volumes.3.projected.sources.0.secret"

PLANTED: list[tuple[Callable[..., Any], str, str, Any, str]] = [
    (policies.no_root, "Deployment/labeler", f"{POD}.securityContext.runAsNonRoot", GONE, "may run as root"),
    (policies.no_root, "ScaledJob/trainer", f"{DEEP}.securityContext.runAsUser", 0, "may run as root"),
    (policies.no_privilege, "StatefulSet/store", f"{MAIN}.securityContext.allowPrivilegeEscalation", GONE, "privil"),
    (policies.no_privilege, "Job/provision", f"{MAIN}.securityContext.privileged", True, "may gain privileges"),
    (policies.no_capabilities, "ScaledJob/trainer", f"{DEEP}.securityContext.capabilities.add", ["KILL"], "keeps"),
    (policies.seccomp, "Deployment/conductor", f"{POD}.securityContext.seccompProfile.type", "Unconfined", "seccomp"),
    (policies.no_host, "Deployment/inference", f"{POD}.hostNetwork", True, "host's namespaces"),
    (policies.no_host, "Deployment/inference", f"{POD}.volumes.1", {"name": "c", "hostPath": {"path": "/"}}, "kind"),
    (policies.no_host, "Deployment/conductor", f"{MAIN}.ports.0.hostPort", 9100, "port of the host"),
    (policies.read_only, "StatefulSet/redis", f"{MAIN}.securityContext.readOnlyRootFilesystem", False, "may write"),
    (policies.tagged, "Deployment/labeler", f"{MAIN}.image", "registry:5000/roadqa-labeler", "no exact image"),
    (policies.tagged, "StatefulSet/redis", f"{MAIN}.image", "redis:latest", "no exact image"),
    (policies.limits, "ScaledJob/quantizer", f"{DEEP}.resources.limits.memory", GONE, "no limits for memory"),
    (policies.limits, "Deployment/cli", f"{MAIN}.resources.requests", GONE, "no requests for cpu, memory"),
    (policies.no_token, "ServiceAccount/roadqa", "automountServiceAccountToken", GONE, "its token is mounted"),
    (policies.no_token, "ScaledJob/trainer", f"{JOB}.automountServiceAccountToken", True, "a token is mounted"),
    (policies.no_token, "Deployment/cli", f"{POD}.serviceAccountName", "default", "not ours"),
    (policies.probed, "Deployment/inference", f"{MAIN}.startupProbe", GONE, "no startupProbe"),
    (policies.probed, "ScaledJob/trainer", f"{DEEP}.livenessProbe", GONE, "no livenessProbe"),
    (policies.heartbeat, "Deployment/inference", f"{MAIN}.startupProbe", {"tcpSocket": {"port": 1}}, "heartbeat"),
    (policies.heartbeat, "Deployment/labeler", f"{MAIN}.envFrom", GONE, "does not look at its heartbeat"),
    (policies.grace, "Deployment/labeler", f"{POD}.terminationGracePeriodSeconds", 60, "before its grace of 60 s"),
    (policies.grace, "ScaledJob/trainer", f"{DEEP}.env.+", {"name": "ROADQA_GRACE_SECONDS", "value": "600"}, "600 s"),
    (policies.default_deny, "NetworkPolicy/default-deny", "spec.policyTypes", ["Ingress"], "no NetworkPolicy denies"),
    (policies.who_leaves, "Deployment/inference", "spec.template.metadata.labels.roadqa/internet", "yes", "may leave"),
    (policies.who_leaves, "NetworkPolicy/internet", "spec.egress.0.ports.+", {"port": 22}, "more than HTTPS"),
    (policies.who_leaves, "NetworkPolicy/stores", "spec.egress.0.to", GONE, "a rule allows everything"),
    (policies.no_open_door, "NetworkPolicy/redis", "spec.ingress.0.from", GONE, "lets everyone in"),
    (policies.no_secret, "ServiceAccount/roadqa", "kind", "Secret", "a secret stands in the manifests"),
    (policies.no_secret, "StatefulSet/store", f"{MAIN}.env.+", {"name": "ROOT_PASSWORD", "value": "a"}, "PASSWORD"),
    (policies.no_secret, "Deployment/conductor", f"{MAIN}.env.+", {"name": "X", "value": "redis://:a@b"}, "address"),
    (policies.no_secret, "Deployment/conductor", f"{MAIN}.env.+", {"name": "ROADQA_REDIS_URL", "value": "r"}, "_URL"),
    (policies.known_settings, "Deployment/cli", f"{MAIN}.env", [{"name": "ROADQA_GRACE", "value": "1"}], "no setting"),
    (policies.known_settings, "Deployment/cli", f"{SECRET}.items.0.path", "roadqa_url", "no setting"),
    (policies.key_for_teachers_only, "Deployment/cli", f"{SECRET}.items.+",
     {"key": "roadqa_gemini_api_key", "path": "roadqa_gemini_api_key"}, "has the teacher's key"),
    (policies.one_namespace, "Namespace/roadqa", "metadata.labels", {}, "not held to the restricted standard"),
    (policies.one_namespace, "Service/redis", "metadata.namespace", "default", "no namespace of ours"),
    (policies.references, "ScaledJob/trainer", f"{DEEP}.envFrom.0.configMapRef.name", "roadqa", "no ConfigMap"),
    (policies.references, "Service/store", "spec.selector", {"app": "store"}, "selects no pod"),
    (policies.references, "PodDisruptionBudget/labeler", "spec.selector", {"matchLabels": {"a": "b"}}, "no pod"),
    (policies.scaled, "ScaledObject/labeler", "metadata.name", "teacher", "queue labeler: 0 scalers"),
    (policies.scaled, "ScaledObject/inference", "spec.minReplicaCount", 1, "from zero"),
    (policies.scaled, "ScaledObject/inference", "spec.triggers.0.metadata.valueLocation", "roadqa_work", "scales on"),
    (policies.scaled, "Deployment/augmenter", "spec.replicas", 1, "sets its replicas itself"),
    (policies.scaled, "ScaledJob/quantizer", f"{DEEP}.env", [], "does not end after one offer"),
    (policies.conductor_address, "Service/conductor", "spec.ports.0.port", 80, "asks http://conductor.roadqa.svc:9100"),
    (policies.conductor_address, "Deployment/conductor", f"{MAIN}.env", [], "on another port"),
    (policies.disruption, "PodDisruptionBudget/inference", "kind", "Pod", "no PodDisruptionBudget"),
    (policies.spread, "Deployment/labeler", f"{POD}.topologySpreadConstraints", [], "all on one node"),
]  # fmt: skip
#: The same in the overlay that serves a model.
SERVED: list[tuple[Callable[..., Any], str, str, Any, str]] = [
    (policies.served, policies.SERVER, f"{MAIN}.startupProbe.failureThreshold", 30, "is killed after 300 s"),
    (policies.served, policies.SERVER, f"{MAIN}.startupProbe.httpGet.path", "/ping", "does not ask /health"),
    (policies.served, policies.SERVER, f"{MAIN}.livenessProbe", {"tcpSocket": {"port": 8000}}, "does not ask /health"),
    (policies.served, policies.SERVER, "spec.progressDeadlineSeconds", GONE, "counts as failed before its start"),
    (policies.served, policies.SERVER, f"{MAIN}.args.+", "--api-key=a", "its key stands among its arguments"),
    (policies.served, policies.SERVER, f"{POD}.volumes.3.secret.items.2", GONE, "is for the server, which needs it"),
    (policies.served, "Deployment/cli", f"{SECRET}.items.+",
     {"key": "roadqa_serve_api_key", "path": "roadqa_serve_api_key"}, "Deployment/cli: the server's key"),
    (policies.probed, policies.SERVER, f"{MAIN}.readinessProbe", GONE, "no readinessProbe"),
    (policies.disruption, "PodDisruptionBudget/serve", "kind", "Pod", "no PodDisruptionBudget"),
    (policies.spread, policies.SERVER, f"{POD}.topologySpreadConstraints", [], "all on one node"),
    (policies.no_root, policies.SERVER, f"{POD}.securityContext.runAsUser", 0, "may run as root"),
    (policies.read_only, policies.SERVER, f"{MAIN}.securityContext.readOnlyRootFilesystem", False, "may write"),
    (policies.no_open_door, "NetworkPolicy/serve", "spec.ingress.0.from", GONE, "lets everyone in"),
    (policies.who_leaves, policies.SERVER, "spec.template.metadata.labels.roadqa/internet", "yes", "may leave"),
    (policies.references, "Service/serve", "spec.selector", {"app": "serve"}, "selects no pod"),
    (policies.limits, policies.SERVER, f"{MAIN}.resources.limits.memory", GONE, "no limits for memory"),
]  # fmt: skip
EVERYWHERE = [*(("cpu", *fault) for fault in PLANTED), *(("serve", *fault) for fault in SERVED)]


@pytest.mark.parametrize(
    ("overlay", "policy", "where", "path", "value", "said"),
    EVERYWHERE,
    ids=[f"{p.__name__}-{w}-{x}" for _, p, w, x, _, _ in EVERYWHERE],
)
def test_a_planted_fault_is_found(
    overlay: str, policy: policies.Policy, where: str, path: str, value: Any, said: str
) -> None:
    docs = render(overlay)
    plant(docs, where, path, value)
    assert any(said in complaint for complaint in policy(docs)), list(policy(docs))


def test_every_policy_has_a_planted_fault() -> None:
    assert {policy for _, policy, *_ in EVERYWHERE} == set(policies.POLICIES)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("where", "path", "value", "said"),
    [
        ("Deployment/labeler", "spec.replica", 1, "'replica' was unexpected"),
        ("Deployment/labeler", f"{MAIN}.resources.limits.memory", {}, "is not valid"),
        ("NetworkPolicy/dns", "spec.egress.0.ports.0.port", [53], "is not valid"),
        ("ScaledJob/trainer", f"{JOB}.container", [], "'container' was unexpected"),
        ("ScaledJob/trainer", "spec.jobTargetRef.template", GONE, "'template' is a required property"),
        ("ScaledJob/trainer", "spec.scalingStrategy.strategy", "lazy", "no such scaling strategy"),
        ("ScaledJob/trainer", "spec.cooldownPeriod", 300, "cooldownPeriod is no field"),
        ("ScaledObject/labeler", "spec.minReplicas", 0, "minReplicas is no field"),
        ("ScaledObject/labeler", "spec.pollingInterval", "15", "pollingInterval must be a number"),
        ("ScaledObject/labeler", "spec.scaleTargetRef", GONE, "no scaleTargetRef"),
        ("ScaledObject/labeler", "spec.triggers.0.metadata.targetValue", 1, "targetValue must be text"),
        ("ScaledObject/labeler", "spec.triggers.0.metadata.format", "text", "no such format"),
        ("ScaledObject/labeler", "spec.triggers.0.metadata.query", "roadqa_work", "query is no field"),
    ],
)
def test_a_misspelled_field_is_found(version: str, where: str, path: str, value: Any, said: str) -> None:
    docs = render("cpu")
    plant(docs, where, path, value)
    found = [complaint for doc in docs if name(doc) == where for complaint in complaints(doc, version)]
    assert any(said in complaint for complaint in found), found


# --- one truth -------------------------------------------------------------------------------------


def without(docs: list[Document], left_out: str) -> list[Document]:
    return [doc for doc in docs if name(doc) != left_out]


def images_of(docs: list[Document]) -> list[str]:
    return [container["image"] for pod in pods(docs) for container in pod.containers]


def test_serving_is_there_where_it_was_asked_for_and_changes_nothing_else() -> None:
    plain, serving = ({name(doc): doc for doc in render(overlay)} for overlay in ("gpu", "serve"))
    more = {
        "Deployment/serve",
        "Service/serve",
        "PodDisruptionBudget/serve",
        "NetworkPolicy/serve",
        "NetworkPolicy/asks",
    }
    assert serving.keys() - plain.keys() == more
    assert not plain.keys() - serving.keys()
    assert {who for who in plain if plain[who] != serving[who]} == {"Deployment/cli"}


@pytest.mark.parametrize("overlay", ["cpu", "gpu", "external", "serve"])
def test_every_image_of_ours_has_this_version(overlay: str) -> None:
    on_gpus = set() if overlay == "cpu" else {"roadqa-trainer", "roadqa-quantizer", "roadqa-inference"}
    ours = dict(image.split(":") for image in images_of(render(overlay)) if image.startswith("roadqa-"))
    assert ours == {image: f"{VERSION}-cuda" if image in on_gpus else VERSION for image in ours}
    assert len(ours) == 6


def test_the_stores_are_those_of_compose() -> None:
    lines = (ROOT / "compose" / ".env.example").read_text().splitlines()
    wanted = {line.partition("=")[2] for line in lines if line.startswith(("ROADQA_REDIS_IMAGE", "ROADQA_STORE_IMAGE"))}
    assert {image for image in images_of(render("cpu")) if not image.startswith("roadqa-")} == wanted
    assert (K8S / "components/stores/redis.conf").read_text() == (ROOT / "compose/redis.conf").read_text()


def test_the_external_overlay_has_no_store_of_its_own() -> None:
    inside, outside = ({pod.name for pod in pods(render(overlay))} for overlay in ("gpu", "external"))
    assert inside - outside == {"StatefulSet/redis", "StatefulSet/store", "Job/provision"}
    assert not outside - inside


def test_heavy_work_has_a_gpu_and_may_run_where_they_are() -> None:
    for pod in pods(render("serve")):
        has = [c["resources"]["limits"].get("nvidia.com/gpu") for c in pod.containers]
        heavy = pod.name in ("ScaledJob/trainer", "ScaledJob/quantizer", "Deployment/inference", policies.SERVER)
        assert has == [1 if heavy else None], pod.name
        assert any(t["key"] == "nvidia.com/gpu" for t in pod.spec.get("tolerations", [])) == heavy, pod.name


def test_an_overlay_of_ones_own_renames_every_image() -> None:
    for old, new in zip(images_of(render("gpu")), images_of(without(render("ours"), "Job/model-pull")), strict=True):
        assert new == (f"registry.example.com/team/{old}" if old.startswith("roadqa-") else old)


def test_a_change_of_settings_starts_new_pods() -> None:
    """Also of the Jobs, where kustomize must be told what names a ConfigMap."""
    for old, new in zip(pods(render("gpu")), pods(without(render("ours"), "Job/model-pull")), strict=True):
        if "envFrom" in old.containers[0]:
            assert old.containers[0]["envFrom"] != new.containers[0]["envFrom"], old.name
