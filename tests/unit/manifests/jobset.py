"""A JobSet against the fields of its CRD (jobset.x-k8s.io/v1alpha2); its Jobs' templates have a schema of their own.

Source: kubernetes-sigs/jobset, config/components/crd/bases/jobset.x-k8s.io_jobsets.yaml.
"""

from collections.abc import Iterator
from typing import Any

from tests.unit.manifests.rendered import Document, name

_SPEC = {"coordinator", "failurePolicy", "managedBy", "network", "replicatedJobs", "startupPolicy", "successPolicy",
         "suspend", "ttlSecondsAfterFinished", "volumeClaimPolicies"}  # fmt: skip
_NETWORK = {"enableDNSHostnames", "publishNotReadyAddresses", "subdomain"}
_FAILURE = {"maxRestarts", "restartStrategy", "rules"}
_SUCCESS = {"operator", "targetReplicatedJobs"}
_JOB = {"dependsOn", "groupName", "name", "replicas", "template"}


def check(doc: Document) -> Iterator[str]:
    """Complaints about a JobSet."""
    spec, who = doc["spec"], name(doc)
    if doc["apiVersion"] != "jobset.x-k8s.io/v1alpha2":
        yield f"{who}: {doc['apiVersion']} is not JobSet's"
    yield from _unknown(who, spec, _SPEC)
    yield from _unknown(who, spec.get("network", {}), _NETWORK)
    yield from _unknown(who, spec.get("failurePolicy", {}), _FAILURE)
    yield from _unknown(who, spec.get("successPolicy", {}), _SUCCESS)
    jobs = {job["name"] for job in spec["replicatedJobs"]}
    for job in spec["replicatedJobs"]:
        yield from _unknown(who, job, _JOB)
        yield from _unknown(who, job["template"], {"metadata", "spec"})
    if missing := set(spec.get("successPolicy", {}).get("targetReplicatedJobs", [])) - jobs:
        yield f"{who}: waits for {', '.join(sorted(missing))}, which it does not make"


def _unknown(who: str, given: dict[str, Any], known: set[str]) -> Iterator[str]:
    yield from (f"{who}: there is no field {key}" for key in sorted(given.keys() - known))
