"""`roadqa verify`: trainer and engine look at the same questions, and what they see is compared.

Each encodes with its own libraries, in a process of its own, one after the other: a GPU holds one model at a time.
"""

import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from services.cli import predictions, serve
from services.cli.collect import read_rows
from services.cli.data import Progress, resolve_data, resolve_model
from shared.errors import InputError, RoadQAError, UsageError
from shared.parity import Comparison, Contract, Request, Seen, compare
from shared.schema import Frozen, Question, read_jsonl, write_rows
from shared.store import Store

WAYS = ("bulk", "http")
#: Of a server that only this asks: a refused model's too, and one that tells what it makes of a request.
SERVER = ("--force", "--enable-scale-out")


class Verified(Frozen):
    """What was compared, and what came of it."""

    model: str
    dataset: str
    trained: Contract  #: how the model was trained, by its card
    asked: Contract  #: how the engine was asked
    bulk: Comparison  #: as predict answers
    http: Comparison | None  #: as `roadqa serve` answers; None where no server was asked

    @property
    def equal(self) -> bool:
        return self.bulk.equal and (self.http is None or self.http.equal)


class Environments:
    """What each environment sees of the rows in `rows`, with the model in `model`."""

    def __init__(
        self, model: Path, rows: Path, artifact: str, name: str, own: Contract, url: str | None = None
    ) -> None:
        """`artifact`: the model's, for the server; `own`: how its card says it is asked; `url`: of a server that runs.

        Raises:
            UsageError: the workers' environments are not on this machine.
        """
        for worker in ("trainer", "inference"):
            if not _python(worker).is_file():
                raise UsageError(f"{_python(worker)} is not there: `make setup`; containers hold one environment each")
        self._model, self._rows, self._artifact, self._name, self._own = model, rows, artifact, name, own
        self._url = url

    def trainer(self, asking: Contract) -> list[Seen]:
        """As training encodes the rows; answered by a plain forward."""
        return self._see("trainer", asking)

    def bulk(self, asking: Contract) -> list[Seen]:
        """As predict shows them to vLLM."""
        return self._see("inference", asking)

    def http(self, asking: Contract) -> list[Seen]:
        """As a client's clips and questions arrive at the model behind `roadqa serve`."""
        if self._url is not None:
            return self._see("inference", asking, url=self._url, served_name=self._name)
        options = list(SERVER)
        if asking.video != self._own.video:
            options += ["--media-io-kwargs", '{"video": ' + asking.video.model_dump_json() + "}"]
        with tempfile.TemporaryFile() as log:
            try:
                with serve.served(self._artifact, self._name, serve.free_port(), options, log) as url:
                    return self._see("inference", asking, url=url, served_name=self._name)
            except serve.EndedError as error:
                log.seek(0)
                raise RoadQAError(f"the server: {_last_line(log.read().decode(errors='replace'))}") from error

    def _see(self, worker: str, asking: Contract, **server: str) -> list[Seen]:
        with tempfile.TemporaryDirectory() as folder:
            out, told = Path(folder) / "seen.jsonl", Path(folder) / "request.json"
            request = Request(model=self._model, data=self._rows, asking=asking, out=out, **server)
            told.write_text(request.model_dump_json(), encoding="utf-8")
            done = subprocess.run(
                [_python(worker), "-m", f"workers.{worker}.parity", told],
                env={**os.environ, "PYTHONPATH": str(serve.ROOT)}, capture_output=True, check=False,
            )  # fmt: skip
            if done.returncode:
                raise RoadQAError(f"the {worker}'s side: {_last_line(done.stderr.decode(errors='replace'))}")
            return list(read_jsonl(out, Seen))


def _python(worker: str) -> Path:
    return serve.ROOT / ".venvs" / worker / "bin" / "python"


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "said nothing")


def verify(
    store: Store, model: str, dataset: str, changed: dict[str, Any], limit: int, http: bool, tell: Progress
) -> Verified:
    """Compare what the trainer and the engine see of a dataset's questions, `changed` of how the engine is asked.

    Raises:
        UsageError: no such model or dataset, or an environment is missing.
        RoadQAError: one of the sides cannot look at the questions; says why.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what it started ends with it
    artifact = resolve_model(store, "base", model, tell)
    parts = resolve_data(store, dataset, dataset, tell)
    trained = as_trained(store, artifact)
    asked = changed_asking(trained, changed)
    with store.workspace() as space:
        sides = Environments(space / "model", space / "rows", artifact, model, trained)
        store.get_artifact(artifact, space / "model")
        lay_rows(store, parts, limit, space / "rows")
        trainer = _look("trainer", sides.trainer, trained, tell)
        bulk = _look("bulk", sides.bulk, asked, tell)
        served = in_the_same_arithmetic(_look("http", sides.http, asked, tell), bulk) if http else None
    return Verified(
        model=model,
        dataset=dataset,
        trained=trained,
        asked=asked,
        bulk=compare(trainer, bulk),
        http=None if served is None else compare(trainer, served),
    )


def _look(what: str, see: Callable[[Contract], list[Seen]], asking: Contract, tell: Progress) -> list[Seen]:
    tell(what, 0, 1)
    found = see(asking)
    tell(what, 1, 1)
    return found


def in_the_same_arithmetic(http: Sequence[Seen], bulk: Sequence[Seen]) -> list[Seen]:
    """A server does not tell its type of numbers; it is chosen by the same code as in bulk."""
    return [one.model_copy(update={"precision": two.precision}) for one, two in zip(http, bulk, strict=True)]


def as_trained(store: Store, artifact: str) -> Contract:
    """How a model was trained, by its card; the defaults where it does not tell."""
    card = predictions.asked_as(store, artifact)
    return Contract.model_validate({name: card[name] for name in Contract.model_fields if name in card})


def changed_asking(trained: Contract, changed: dict[str, Any]) -> Contract:
    """`trained` with what is not None in `changed`: a system prompt, and fields of the video budget.

    Raises:
        ValidationError: a value is out of bounds.
    """
    given = {name: value for name, value in changed.items() if value is not None}
    prompt = given.pop("system_prompt", trained.system_prompt)
    return Contract.model_validate({"system_prompt": prompt, "video": trained.video.model_dump() | given})


def lay_rows(store: Store, parts: tuple[str, ...], limit: int, folder: Path) -> None:
    """Questions spread evenly over a dataset, as a rows artifact; those on one clip side by side. Limit 0: all.

    Raises:
        InputError: there are none.
    """
    questions, clips = read_rows(store, parts)
    if not questions:
        raise InputError("the dataset has no questions; import it again")
    chosen = sorted(spread(questions, limit), key=lambda question: question.clip)
    write_rows(folder, chosen, clips)
    for clip in {question.clip for question in chosen}:
        store.get_blob(clip, folder / "clips" / clip)


def spread(questions: Sequence[Question], limit: int) -> list[Question]:
    """`limit` of the questions at even distances; all where there are no more, or it is 0."""
    count = min(limit or len(questions), len(questions))
    return [questions[place * len(questions) // count] for place in range(count)]
