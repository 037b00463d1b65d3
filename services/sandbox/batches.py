"""Batch jobs of the sandbox's teacher, in Gemini's protocol.

Source of the protocol: ai.google.dev/gemini-api/docs/batch-api, as google-genai 3.4 speaks it.
"""

import hashlib
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from services.sandbox.faults import Refusal
from services.sandbox.oracle import Options

#: google.rpc codes by HTTP status.
_CODES = {400: 3, 403: 7, 404: 5, 429: 8, 503: 14}


@dataclass
class Job:
    """A job: its requests, and once it has ended its answers (JSON lines)."""

    name: str
    display_name: str
    model: str
    requests: list[dict[str, Any]]
    end: str  #: state it will end in
    looks: int = 0
    state: str = "PENDING"
    answers: bytes = b""


class Batches:
    """The jobs of a server; `generate` answers one request, or raises `Refusal`."""

    def __init__(self, options: Options, generate: Callable[[str, dict[str, Any]], dict[str, Any]]) -> None:
        self._options, self._generate = options, generate
        self._jobs: dict[str, Job] = {}
        self._made = 0
        self._left_out: set[str] = set()

    def create(self, model: str, batch: dict[str, Any], file: bytes) -> dict[str, Any]:
        """Take a job. Raises `Refusal` where its file is not of the form, or the caller is not to hear of it."""
        try:
            requests = [json.loads(line) for line in file.splitlines() if line.strip()]
            assert all({"key", "request"} <= line.keys() for line in requests)
        except (ValueError, AssertionError, AttributeError) as error:
            raise Refusal(400, "The input file must have a key and a request in each line.") from error
        ends = self._options.batch_ends
        end = ends[self._made] if self._made < len(ends) else "SUCCEEDED"
        job = Job(secrets.token_hex(8), batch.get("displayName", ""), model, requests, end)
        self._jobs[job.name] = job
        self._made += 1
        if self._made <= self._options.batch_unheard:
            raise Refusal(500, "An internal error has occurred. Please retry.")
        return self._described(job)

    def look(self, name: str) -> dict[str, Any]:
        """A job's state; it works on its requests at the last look that it needs."""
        job = self._find(name)
        job.looks += 1
        if job.state == "PENDING" and job.looks >= self._options.batch_looks:
            job.state = job.end
            if job.end in ("SUCCEEDED", "PARTIALLY_SUCCEEDED"):
                job.answers = b"".join(self._answer(job, line) for line in job.requests)
        return self._described(job)

    def all(self) -> dict[str, Any]:
        return {"operations": [self._described(job) for job in self._jobs.values()]}

    def cancel(self, name: str) -> None:
        job = self._find(name)
        if job.state == "PENDING":
            job.state = "CANCELLED"

    def delete(self, name: str) -> None:
        del self._jobs[self._find(name).name]

    def answers(self, file: str) -> bytes | None:
        """The file of a job's answers; None where the name is another's."""
        job = self._jobs.get(file.removeprefix("batch-"))
        return job.answers if job is not None and file.startswith("batch-") else None

    def _answer(self, job: Job, line: dict[str, Any]) -> bytes:
        draw = hashlib.sha256(f"{self._options.seed}/{line['key']}".encode()).digest()
        if line["key"] not in self._left_out and int.from_bytes(draw[:8], "big") / 2**64 < self._options.batch_left_out:
            self._left_out.add(line["key"])  # the next job has it
            return b""
        try:
            answer: dict[str, Any] = {"key": line["key"], "response": self._generate(job.model, line["request"])}
        except Refusal as refusal:
            code = _CODES.get(refusal.code, 13)
            answer = {"key": line["key"], "error": {"code": code, "message": refusal.message}}
        return json.dumps(answer, ensure_ascii=False).encode() + b"\n"

    def _find(self, name: str) -> Job:
        if name not in self._jobs:
            raise Refusal(404, f"Batch {name} is not found.")
        return self._jobs[name]

    def _described(self, job: Job) -> dict[str, Any]:
        metadata: dict[str, Any] = {
            "@type": "type.googleapis.com/google.ai.generativelanguage.v1main.GenerateContentBatch",
            "model": f"models/{job.model}", "displayName": job.display_name, "state": f"BATCH_STATE_{job.state}",
        }  # fmt: skip
        if job.answers:
            metadata["output"] = {"responsesFile": f"files/batch-{job.name}"}
        return {"name": f"batches/{job.name}", "metadata": metadata, "done": job.state != "PENDING"}
