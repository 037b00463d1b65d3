"""What was decided on a checkpoint when it was compared with its parent: found from the model, wherever it is used."""

import json
from typing import Any

from shared.errors import UsageError
from shared.store import Store

FILE = "verdict.json"  #: in scores that speak of a model
DECIDED = ("promoted", "refused")  #: states in which a gate has spoken


def newest(store: Store, model: str) -> dict[str, Any] | None:
    """The last verdict of a gate on a model, by the store's clock; None where none has promoted or refused it.

    What was measured without a gate, or on too few questions, takes no decision back.
    """
    told = {}
    for key in store.keys(f"about/{model}/"):
        scores = key.rsplit("/", 1)[1]
        if any(file.path == FILE for file in store.manifest(scores).files):
            told[scores] = store.modified(key)
    for scores in sorted(told, key=lambda artifact: (told[artifact], artifact), reverse=True):
        verdict: dict[str, Any] = json.loads(store.read_file(scores, FILE))
        if verdict["state"] in DECIDED:
            return verdict | {"scores": scores}
    return None


def refusal(store: Store, model: str) -> str | None:
    """Why a model should not be used, None where nothing speaks against it."""
    verdict = newest(store, model)
    if verdict is None or verdict["state"] != "refused":
        return None
    return f"its gate refused it: {verdict['why']} (n = {verdict['n']}, scores {verdict['scores'][:12]})"


def check(store: Store, model: str, name: str, force: bool) -> str | None:
    """Stop a refused model unless it is forced; returns the words of warning that belong beside a forced one.

    Raises:
        UsageError: it is refused, and not forced.
    """
    why = refusal(store, model)
    if why and not force:
        raise UsageError(f"{name} is not served: {why}; serve it all the same with --force, or serve its parent")
    return f"{name} is served by --force though {why}" if why else None
