"""KEDA's own kinds against the fields that its documentation (2.19) gives them; their schemas come with KEDA only.

Sources: keda.sh/docs/2.19/reference/scaledobject-spec, /reference/scaledjob-spec, /scalers/metrics-api.
"""

from collections.abc import Iterator
from typing import Any

from tests.unit.manifests.rendered import Document, name

_INT = {"pollingInterval", "cooldownPeriod", "initialCooldownPeriod", "idleReplicaCount", "minReplicaCount",
        "maxReplicaCount", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"}  # fmt: skip
_SPEC = {
    "ScaledObject": {"scaleTargetRef", "pollingInterval", "cooldownPeriod", "initialCooldownPeriod",
                     "idleReplicaCount", "minReplicaCount", "maxReplicaCount", "fallback", "advanced", "triggers"},
    "ScaledJob": {"jobTargetRef", "pollingInterval", "successfulJobsHistoryLimit", "failedJobsHistoryLimit",
                  "envSourceContainerName", "minReplicaCount", "maxReplicaCount", "rollout", "scalingStrategy",
                  "triggers"},
}  # fmt: skip
_REQUIRED = {"ScaledObject": {"scaleTargetRef", "triggers"}, "ScaledJob": {"jobTargetRef", "triggers"}}
_TARGET = {"apiVersion", "kind", "name", "envSourceContainerName"}
_STRATEGIES = {"default", "custom", "accurate", "eager"}
_ROLLOUTS = {"default", "gradual"}
_TRIGGER = {"type", "name", "metadata", "authenticationRef", "useCachedMetrics", "metricType"}
#: Of the metrics-api scaler, authentication apart.
_METRICS_API = {"url", "format", "valueLocation", "targetValue", "activationTargetValue", "unsafeSsl",
                "aggregateFromKubeServiceEndpoints", "aggregationType"}  # fmt: skip
_FORMATS = {"json", "xml", "yaml", "prometheus"}


def check(doc: Document) -> Iterator[str]:
    """Complaints about a ScaledObject or a ScaledJob; its Job's template has a schema and is not looked at."""
    spec, who = doc["spec"], name(doc)
    if doc["apiVersion"] != "keda.sh/v1alpha1":
        yield f"{who}: {doc['apiVersion']} is not KEDA's"
    yield from _unknown(who, spec, _SPEC[doc["kind"]])
    yield from (f"{who}: no {missing}" for missing in sorted(_REQUIRED[doc["kind"]] - spec.keys()))
    yield from (
        f"{who}: {key} must be a number" for key in sorted(_INT & spec.keys()) if not isinstance(spec[key], int)
    )
    yield from _unknown(who, spec.get("scaleTargetRef", {}), _TARGET)
    if spec.get("scalingStrategy", {}).get("strategy", "default") not in _STRATEGIES:
        yield f"{who}: no such scaling strategy"
    if spec.get("rollout", {}).get("strategy", "default") not in _ROLLOUTS:
        yield f"{who}: no such rollout strategy"
    for trigger in spec.get("triggers", []):
        yield from _trigger(who, trigger)


def _trigger(who: str, trigger: dict[str, Any]) -> Iterator[str]:
    metadata = trigger.get("metadata", {})
    yield from _unknown(who, trigger, _TRIGGER)
    if trigger.get("type") != "metrics-api":
        yield f"{who}: a {trigger.get('type')} trigger is not known here"
    yield from _unknown(who, metadata, _METRICS_API)
    yield from (f"{who}: no {key}" for key in ("url", "valueLocation", "targetValue") if key not in metadata)
    yield from (f"{who}: {key} must be text" for key, value in metadata.items() if not isinstance(value, str))
    if metadata.get("format", "json") not in _FORMATS:
        yield f"{who}: no such format: {metadata['format']}"


def _unknown(who: str, given: dict[str, Any], known: set[str]) -> Iterator[str]:
    yield from (f"{who}: {field} is no field of KEDA's" for field in sorted(given.keys() - known))
