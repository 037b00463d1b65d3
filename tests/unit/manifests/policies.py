"""What every rendered overlay holds to: functions from its documents to complaints, a line each."""

import re
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from typing import Any

from pydantic import SecretStr

from shared.contracts import STAGES
from shared.settings import Settings
from tests.unit.manifests.rendered import Document, Pod, environment, name, pods, selects

Policy = Callable[[list[Document]], Iterator[str]]

QUEUES = {stage.queue for stage in STAGES.values()}
#: Who may speak to the internet.
OUTSIDE = {"Deployment/labeler", "Deployment/augmenter", "Job/model-pull"}
SERVER = "Deployment/serve"
#: Seconds between the end of a worker's grace and its death: the lease goes back, the process ends.
MARGIN = 15
#: Volumes that the *restricted* Pod Security Standard allows.
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
PROBES = {"startupProbe", "readinessProbe", "livenessProbe"}

_SECRET_FIELDS = {key for key, field in Settings.model_fields.items() if isinstance(field.default, SecretStr)}
_SECRET_NAME = re.compile(r"PASSWORD|SECRET|TOKEN|API_?KEY|CREDENTIAL", re.IGNORECASE)
_IN_URL = re.compile(r"://[^/\s]*:[^/\s]+@")


def _each(docs: list[Document]) -> Iterator[tuple[Pod, str, dict[str, Any]]]:
    """Every container with its pod and the words that name it."""
    for pod in pods(docs):
        for container in pod.containers:
            yield pod, f"{pod.name}: {container['name']}", container


def no_root(docs: list[Document]) -> Iterator[str]:
    for pod in pods(docs):
        for who in (pod.spec, *pod.containers):
            context = {**pod.spec.get("securityContext", {}), **who.get("securityContext", {})}
            if context.get("runAsNonRoot") is not True or not context.get("runAsUser"):
                yield f"{pod.name}: may run as root"


def no_privilege(docs: list[Document]) -> Iterator[str]:
    for _, who, container in _each(docs):
        context = container.get("securityContext", {})
        if context.get("allowPrivilegeEscalation") is not False or context.get("privileged"):
            yield f"{who}: may gain privileges"


def no_capabilities(docs: list[Document]) -> Iterator[str]:
    for _, who, container in _each(docs):
        if container.get("securityContext", {}).get("capabilities") != {"drop": ["ALL"]}:
            yield f"{who}: keeps capabilities"


def seccomp(docs: list[Document]) -> Iterator[str]:
    for pod in pods(docs):
        if pod.spec.get("securityContext", {}).get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield f"{pod.name}: no seccomp profile"


def no_host(docs: list[Document]) -> Iterator[str]:
    for pod in pods(docs):
        if any(pod.spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")):
            yield f"{pod.name}: shares the host's namespaces"
        for volume in pod.spec.get("volumes", []):
            if not set(volume) - {"name"} <= VOLUMES:
                yield f"{pod.name}: volume {volume['name']} is not of an allowed kind"
    for _, who, container in _each(docs):
        if any("hostPort" in port for port in container.get("ports", [])):
            yield f"{who}: takes a port of the host"


def read_only(docs: list[Document]) -> Iterator[str]:
    for _, who, container in _each(docs):
        if container.get("securityContext", {}).get("readOnlyRootFilesystem") is not True:
            yield f"{who}: may write to its image"


def tagged(docs: list[Document]) -> Iterator[str]:
    for _, who, container in _each(docs):
        image = container["image"]
        tag = image.rsplit("/", 1)[-1].partition(":")[2]
        if tag in ("", "latest") and "@sha256:" not in image:
            yield f"{who}: {image} is no exact image"


def limits(docs: list[Document]) -> Iterator[str]:
    for _, who, container in _each(docs):
        for kind in ("requests", "limits"):
            if missing := {"cpu", "memory"} - container.get("resources", {}).get(kind, {}).keys():
                yield f"{who}: no {kind} for {', '.join(sorted(missing))}"


def no_token(docs: list[Document]) -> Iterator[str]:
    accounts = {doc["metadata"]["name"]: doc for doc in docs if doc["kind"] == "ServiceAccount"}
    for account, doc in accounts.items():
        if doc.get("automountServiceAccountToken") is not False:
            yield f"ServiceAccount/{account}: its token is mounted"
    for pod in pods(docs):
        if pod.spec.get("automountServiceAccountToken") is not False:
            yield f"{pod.name}: a token is mounted"
        if pod.spec.get("serviceAccountName") not in accounts:
            yield f"{pod.name}: runs under an account that is not ours"


def probed(docs: list[Document]) -> Iterator[str]:
    for pod, who, container in _each(docs):
        # A Job's end says how it went. The shell's commands would end with a restart.
        wanted = set() if pod.kind == "Job" else PROBES - ({"livenessProbe"} if pod.name == "Deployment/cli" else set())
        if missing := wanted - container.keys():
            yield f"{who}: no {', '.join(sorted(missing))}"


def heartbeat(docs: list[Document]) -> Iterator[str]:
    """What works proves it: its probes look at the file that it was told to touch."""
    for pod, who, container in _each(docs):
        if pod.labels["app.kubernetes.io/name"] in QUEUES | {"conductor"}:
            file = environment(docs, container).get("ROADQA_HEARTBEAT_FILE")
            for probe in sorted(PROBES & container.keys()):
                if not file or file not in container[probe].get("exec", {}).get("command", [""])[-1]:
                    yield f"{who}: {probe} does not look at its heartbeat"


def grace(docs: list[Document]) -> Iterator[str]:
    default = str(Settings.model_fields["grace_seconds"].default)
    for pod, who, container in _each(docs):
        seconds = float(environment(docs, container).get("ROADQA_GRACE_SECONDS", default))
        if pod.spec.get("terminationGracePeriodSeconds", 30) < seconds + MARGIN:
            yield f"{who}: is killed before its grace of {seconds:.0f} s is over"


def default_deny(docs: list[Document]) -> Iterator[str]:
    shut = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    if not any(doc["kind"] == "NetworkPolicy" and doc["spec"] == shut for doc in docs):
        yield "no NetworkPolicy denies what the others do not allow"


def who_leaves(docs: list[Document]) -> Iterator[str]:
    """Only some pods may leave the cluster, by HTTPS only; a rule without addresses or ports allows all of them."""
    for doc in docs:
        for rule in doc["spec"].get("egress", []) if doc["kind"] == "NetworkPolicy" else []:
            if not rule.get("to") or not rule.get("ports"):
                yield f"{name(doc)}: a rule allows everything"
            blocks = [ip_network(peer["ipBlock"]["cidr"]) for peer in rule.get("to", []) if "ipBlock" in peer]
            if not any(block.prefixlen < 8 for block in blocks):
                continue
            if {port["port"] for port in rule.get("ports", [])} != {443}:
                yield f"{name(doc)}: more than HTTPS leaves the cluster"
            for pod in pods(docs):
                if selects(doc["spec"]["podSelector"], pod.labels) and pod.name not in OUTSIDE:
                    yield f"{name(doc)}: {pod.name} may leave the cluster"


def no_open_door(docs: list[Document]) -> Iterator[str]:
    for doc in docs:
        for rule in doc["spec"].get("ingress", []) if doc["kind"] == "NetworkPolicy" else []:
            if not rule.get("from") or not rule.get("ports"):
                yield f"{name(doc)}: lets everyone in"


def no_secret(docs: list[Document]) -> Iterator[str]:
    for doc in docs:
        if doc["kind"] == "Secret":
            yield f"{name(doc)}: a secret stands in the manifests"
        if _IN_URL.search(str(doc)):
            yield f"{name(doc)}: a password stands in an address"
    for _, who, container in _each(docs):
        for key, value in environment(docs, container).items():
            secret = key.removeprefix("ROADQA_").lower() in _SECRET_FIELDS or _SECRET_NAME.search(key)
            if value and secret and not key.endswith("_FILE"):
                yield f"{who}: {key} stands in the manifests"


def known_settings(docs: list[Document]) -> Iterator[str]:
    """A misspelled variable, or secret, would do nothing."""
    for pod, who, container in _each(docs):
        for key in environment(docs, container):
            if key.startswith("ROADQA_") and key.removeprefix("ROADQA_").lower() not in Settings.model_fields:
                yield f"{who}: {key} is no setting"
        for item in _secret_items(pod):
            if item["path"].startswith("roadqa_") and item["path"].removeprefix("roadqa_") not in Settings.model_fields:
                yield f"{pod.name}: {item['path']} is no setting"


def _secret_items(pod: Pod) -> Iterator[dict[str, str]]:
    for volume in pod.spec.get("volumes", []):
        sources = volume.get("projected", {}).get("sources", [volume])
        for source in sources:
            yield from source.get("secret", {}).get("items", [])


TEACHERS_KEYS = ("roadqa_gemini_api_key", "roadqa_openai_api_key")


def key_for_teachers_only(docs: list[Document]) -> Iterator[str]:
    for pod in pods(docs):
        taken = any(item["key"] in TEACHERS_KEYS for item in _secret_items(pod))
        if taken and pod.name not in ("Deployment/labeler", "Deployment/augmenter"):
            yield f"{pod.name}: has the teacher's key"


#: Seconds that a model has to be fetched, loaded and compiled: k8s/components/serve says why.
MODEL_SECONDS = 1800


def served(docs: list[Document]) -> Iterator[str]:
    """A server is asked at its own health route, has the time that a large model takes, and alone holds its key."""
    for doc in docs:
        if name(doc) != SERVER:
            continue
        (container,) = doc["spec"]["template"]["spec"]["containers"]
        for probe in sorted(PROBES & container.keys()):
            if container[probe].get("httpGet", {}).get("path") != "/health":
                yield f"{SERVER}: {probe} does not ask /health"
        startup = container.get("startupProbe", {})
        seconds = startup.get("periodSeconds", 10) * startup.get("failureThreshold", 3)
        if seconds < MODEL_SECONDS:
            yield f"{SERVER}: is killed after {seconds} s, while its model is on its way"
        if doc["spec"].get("progressDeadlineSeconds", 600) <= seconds:
            yield f"{SERVER}: its rollout counts as failed before its start does"
        if any("api-key" in word for word in container.get("args", [])):
            yield f"{SERVER}: its key stands among its arguments"
    for pod in pods(docs):
        if any(item["key"] == "roadqa_serve_api_key" for item in _secret_items(pod)) != (pod.name == SERVER):
            yield f"{pod.name}: the server's key is for the server, which needs it"


def one_namespace(docs: list[Document]) -> Iterator[str]:
    levels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "audit", "warn")}
    spaces = {doc["metadata"]["name"]: doc["metadata"].get("labels", {}) for doc in docs if doc["kind"] == "Namespace"}
    for space, labels in spaces.items():
        if not levels.items() <= labels.items():
            yield f"Namespace/{space}: is not held to the restricted standard"
    for doc in docs:
        if doc["kind"] != "Namespace" and doc["metadata"].get("namespace") not in spaces:
            yield f"{name(doc)}: is in no namespace of ours"


def references(docs: list[Document]) -> Iterator[str]:
    """What is named is there: ConfigMaps, and pods for everything that selects some."""
    maps = {doc["metadata"]["name"] for doc in docs if doc["kind"] == "ConfigMap"}
    for pod, who, container in _each(docs):
        named = {source["configMapRef"]["name"] for source in container.get("envFrom", [])}
        named |= {volume["configMap"]["name"] for volume in pod.spec.get("volumes", []) if "configMap" in volume}
        for missing in sorted(named - maps):
            yield f"{who}: no ConfigMap {missing}"
    found = list(pods(docs))
    for doc in docs:
        selector = _selector(doc)
        if selector is not None and not any(selects(selector, pod.labels) for pod in found):
            yield f"{name(doc)}: selects no pod"


def _selector(doc: Document) -> dict[str, Any] | None:
    spec = doc.get("spec", {})
    selectors: dict[str, Any] = {
        "Service": {"matchLabels": spec.get("selector")},
        "PodDisruptionBudget": spec.get("selector"),
        "NetworkPolicy": spec.get("podSelector"),
    }
    return selectors.get(doc["kind"])


def scaled(docs: list[Document]) -> Iterator[str]:
    """Each queue has one scaler, on its own work, from zero; a Job takes one offer."""
    there = {name(doc): doc for doc in docs}
    for queue in sorted(QUEUES):
        scalers = [there[key] for key in (f"ScaledObject/{queue}", f"ScaledJob/{queue}") if key in there]
        if len(scalers) != 1:
            yield f"queue {queue}: {len(scalers)} scalers"
            continue
        (scaler,) = scalers
        spec = scaler["spec"]
        if spec.get("minReplicaCount") != 0 or not spec.get("maxReplicaCount"):
            yield f"{name(scaler)}: does not scale from zero up to a bound"
        asked = [trigger["metadata"]["valueLocation"] for trigger in spec["triggers"]]
        if asked != [f'roadqa_work{{queue="{queue}"}}']:
            yield f"{name(scaler)}: scales on {asked}"
        if scaler["kind"] == "ScaledObject":
            target = there.get(f"Deployment/{spec['scaleTargetRef']['name']}")
            if target is None or "replicas" in target["spec"]:
                yield f"{name(scaler)}: its Deployment is not there, or sets its replicas itself"
    for pod, who, container in _each(docs):
        if pod.kind == "ScaledJob" and not float(environment(docs, container).get("ROADQA_ONE_SHOT_SECONDS") or 0):
            yield f"{who}: does not end after one offer"


def conductor_address(docs: list[Document]) -> Iterator[str]:
    """KEDA asks where the conductor answers: its Service, port and path."""
    there = {name(doc): doc for doc in docs}
    service = there["Service/conductor"]
    (port,) = (port["port"] for port in service["spec"]["ports"])
    address = f"http://conductor.{service['metadata']['namespace']}.svc:{port}/metrics"
    for doc in docs:
        for trigger in doc["spec"]["triggers"] if doc["kind"] in ("ScaledObject", "ScaledJob") else []:
            if trigger["metadata"]["url"] != address:
                yield f"{name(doc)}: asks {trigger['metadata']['url']}, not {address}"
    container = there["Deployment/conductor"]["spec"]["template"]["spec"]["containers"][0]
    if environment(docs, container).get("ROADQA_METRICS_PORT") != str(container["ports"][0]["containerPort"]):
        yield "Deployment/conductor: serves its metrics on another port"


def disruption(docs: list[Document]) -> Iterator[str]:
    budgets = [doc["spec"]["selector"] for doc in docs if doc["kind"] == "PodDisruptionBudget"]
    targets = {doc["spec"]["scaleTargetRef"]["name"] for doc in docs if doc["kind"] == "ScaledObject"}
    for pod in pods(docs):
        lasting = pod.name == SERVER or pod.name.removeprefix("Deployment/") in targets
        if lasting and not any(selects(b, pod.labels) for b in budgets):
            yield f"{pod.name}: no PodDisruptionBudget"


def spread(docs: list[Document]) -> Iterator[str]:
    for pod in pods(docs):
        spreads = pod.name == SERVER or pod.labels["app.kubernetes.io/name"] in QUEUES
        if spreads and not pod.spec.get("topologySpreadConstraints"):
            yield f"{pod.name}: all on one node, perhaps"


POLICIES: tuple[Policy, ...] = (
    no_root, no_privilege, no_capabilities, seccomp, no_host, read_only, tagged, limits, no_token, probed, heartbeat,
    grace, default_deny, who_leaves, no_open_door, no_secret, known_settings, key_for_teachers_only, served,
    one_namespace, references, scaled, conductor_address, disruption, spread,
)  # fmt: skip
