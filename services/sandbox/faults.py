"""How the sandbox's teacher misbehaves: at set rates, and the same way under the same seed."""

import hashlib
from collections import Counter
from typing import Any, Literal, NamedTuple, get_args

Fault = Literal[
    "429", "500", "503", "hang", "blocked", "safety", "empty", "malformed", "cutoff", "outside", "language", "extra"
]
FAULTS: tuple[Fault, ...] = get_args(Fault)
MEANING: dict[Fault, str] = {
    "429": "rate limited, with the delay to wait",
    "500": "an internal error",
    "503": "overloaded",
    "hang": "no answer for --hang seconds",
    "blocked": "the prompt is blocked for safety",
    "safety": "the answer is blocked for safety",
    "empty": "no candidate",
    "malformed": "JSON that ends in its middle, as if it were whole",
    "cutoff": "JSON that ends in its middle, at the limit of output tokens",
    "outside": "an answer that is none of the choices",
    "language": "reasoning in another language",
    "extra": "fields that the schema does not have",
}


class Refusal(Exception):  # noqa: N818 - an answer of the protocol, not a failure of the server
    """An error of the service. `retry_delay_s`: what a 429 asks for."""

    def __init__(self, code: int, message: str, reason: str = "", retry_delay_s: float | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.reason, self.retry_delay_s = code, message, reason, retry_delay_s


class Faults(NamedTuple):
    """Shares of requests that fail in each way."""

    shares: dict[Fault, float] = {}
    retry_delay_s: float = 0.2

    @classmethod
    def parse(cls, text: str, retry_delay_s: float = 0.2) -> "Faults":
        """Read `429=0.05,500=0.02,malformed=0.02`.

        Raises:
            ValueError: an unknown fault, or a share that is no number.
        """
        shares: dict[Fault, float] = {}
        for item in filter(None, text.split(",")):
            name, _, share = item.partition("=")
            known = next((fault for fault in FAULTS if fault == name.strip()), None)
            if known is None:
                raise ValueError(f"unknown fault {name!r}; choose from {', '.join(FAULTS)}")
            shares[known] = float(share)
        return cls(shares, retry_delay_s)


class Draws:
    """Which fault a try of a request meets; another try of the same request draws anew."""

    def __init__(self, faults: Faults, seed: int) -> None:
        self._faults, self._seed = faults, seed
        self._tries: Counter[str] = Counter()

    def draw(self, request: str) -> Fault | None:
        self._tries[request] += 1
        digest = hashlib.sha256(f"{self._seed}/{request}/{self._tries[request]}".encode()).digest()
        share = int.from_bytes(digest[:8], "big") / 2**64
        for fault, rate in self._faults.shares.items():
            if share < rate:
                return fault
            share -= rate
        return None

    def refuse(self, fault: Fault | None) -> None:
        """Raise what is an error of the service rather than an answer."""
        delay = self._faults.retry_delay_s
        if fault == "429":
            raise Refusal(429, f"You exceeded your current quota. Please retry in {delay:g}s.", retry_delay_s=delay)
        if fault == "500":
            raise Refusal(500, "An internal error has occurred. Please retry.")
        if fault == "503":
            raise Refusal(503, "The model is overloaded. Please try again later.")


def google_error(refusal: Refusal) -> dict[str, Any]:
    """The body of an error as Gemini words it."""
    status = {400: "INVALID_ARGUMENT", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 429: "RESOURCE_EXHAUSTED",
              503: "UNAVAILABLE"}.get(refusal.code, "INTERNAL")  # fmt: skip
    details = []
    if refusal.reason:
        details.append({"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": refusal.reason})
    if refusal.retry_delay_s is not None:
        delay = f"{refusal.retry_delay_s:g}s"
        details.append({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay})
    return {"error": {"code": refusal.code, "message": refusal.message, "status": status, "details": details}}
