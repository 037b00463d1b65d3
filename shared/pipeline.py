"""The pipeline file, and the graph of stages it asks for.

A pipeline names data, models, steps and the rows of its report. `make_plan` turns it into nodes
whose inputs are artifacts or other nodes.
"""

import hashlib
from collections.abc import Collection, Container, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import yaml
from pydantic import Field, ValidationError

from shared.contracts import STAGES, Asking, Gate, QuantizeRecipe, parse_recipe, seen_inputs
from shared.errors import UsageError
from shared.prompts import SystemPrompt
from shared.schema import Frozen
from shared.schemes import SCHEMES
from shared.store import canonical

HASH_CHARS = 32


# --- the pipeline file -----------------------------------------------------------------------------


#: auto: vLLM, unless the deployment's has no kernel for the model's format (`ROADQA_VLLM_LACKS`).
Engine = Literal["auto", "vllm", "transformers"]


class ReportRow(Frozen):
    """One row of the table: a model, how it is asked, and what it is compared with."""

    model: str | None = None  #: a model or step; by default the step of the row's own name
    parent: str | None = None
    against: tuple[str, ...] = ()  #: further rows that it is compared with, as with its parent
    system_prompt: SystemPrompt | None = None
    engine: Engine = "auto"
    asking: Asking = Asking()  #: rotated choices, samples, reasoning
    gate: Gate | None = None  #: what the model must keep of the parent's accuracy to be served


class ReportSpec(Frozen):
    test: str  #: a data name
    rows: dict[str, ReportRow]
    leaks: Literal["refuse", "mark"] = "refuse"  #: mark: score also what a model was trained on, and say so
    gate: Gate | None = None  #: of every row whose model is quantised and has a parent, unless it sets its own


class SubmissionSpec(Frozen):
    data: str
    model: str
    engine: Engine = "auto"
    asking: Asking = Asking()


class Limits(Frozen):
    """Where a run pauses."""

    teacher_usd: float | None = Field(None, gt=0, allow_inf_nan=False)  #: US dollars that its teacher may cost


class Pipeline(Frozen):
    """A pipeline file. `data` values are dataset names, or a mapping that says what to import."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,40}$")
    data: dict[str, str | dict[str, Any]]
    models: dict[str, str]
    video: dict[str, Any] = {}  #: the video budget of every stage that takes one
    system_prompt: SystemPrompt = "expert"
    steps: dict[str, dict[str, Any]] = {}
    report: ReportSpec | None = None
    submission: SubmissionSpec | None = None
    limits: Limits = Limits()


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice, where YAML would take the last."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)  # as written: nothing is merged yet
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if doubled := next((key for key in keys if keys.count(key) > 1), None):
            raise yaml.composer.ComposerError(None, None, f"{doubled!r} stands twice", node.start_mark)
        return node


def parse_pipeline(text: str, source: str) -> Pipeline:
    """Read a pipeline file.

    Raises:
        UsageError: one line that names the file, the field and what is wrong.
    """
    try:
        return Pipeline.model_validate(yaml.load(text, _Loader))
    except (yaml.YAMLError, RecursionError) as error:
        raise UsageError(f"{source}: not YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        raise UsageError(f"{source}: {_first_problem(error)}") from error


def _first_problem(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'file'}: {first['msg']}"


# --- the graph -------------------------------------------------------------------------------------


class Source(Frozen):
    """Where an input comes from: an artifact that exists, or everything that a node gives."""

    artifact: str | None = None
    node: str | None = None


class Node(Frozen):
    """A stage to be done, once or shard by shard."""

    name: str
    stage: str
    version: int  #: the stage's, when the run was planned: an older run keeps its keys
    recipe: dict[str, Any]
    inputs: dict[str, tuple[Source, ...]]
    replicate: int = 0  #: another commit of the same work is asked for by another number

    @property
    def recipe_hash(self) -> str:
        body = {"stage": self.stage, "version": self.version, "recipe": self.recipe}
        if self.replicate:
            body["replicate"] = self.replicate
        return hashlib.sha256(canonical(body)).hexdigest()[:HASH_CHARS]


class PlannedRow(Frozen):
    """A row of the report and the nodes behind it."""

    name: str
    parent: str | None
    model: str  #: a model or step name
    engine: str
    system_prompt: str
    predict: str
    evaluate: str
    parent_evaluate: str | None = None  #: the parent's own scores on this row's engine
    against: dict[str, str] = {}  #: another row → the paired comparison with it


class Plan(Frozen):
    """What a run will do. Nodes stand in topological order."""

    name: str
    nodes: tuple[Node, ...]
    datasets: dict[str, tuple[str, ...]]  #: data name → its parts
    models: dict[str, str]  #: model name → artifact
    rows: tuple[PlannedRow, ...] = ()
    test: str | None = None
    submission: str | None = None  #: predict node
    submission_data: str | None = None
    limits: Limits = Limits()


class Made(NamedTuple):
    """How a model that is in the store already was made."""

    trained_on: tuple[str, ...] = ()  #: rows artifacts, those it was chosen by or calibrated with too
    scheme: str | None = None  #: of its quantisation


class _Planner:
    def __init__(
        self,
        pipeline: Pipeline,
        datasets: Mapping[str, tuple[str, ...]],
        models: Mapping[str, str],
        made: Mapping[str, Made],
        lacking: Container[str],
    ) -> None:
        self.pipeline, self.datasets, self.models, self.made, self.lacking = pipeline, datasets, models, made, lacking
        self.nodes: dict[str, Node] = {}
        self.leaks = pipeline.report.leaks if pipeline.report else "refuse"

    def sources(self, names: Iterable[str], where: str) -> tuple[Source, ...]:
        found: list[Source] = []
        for name in names:
            if name in self.nodes:
                found.append(Source(node=name))
            elif name in self.datasets:
                found += [Source(artifact=part) for part in self.datasets[name]]
            else:
                known = ", ".join([*self.datasets, *self.nodes])
                raise UsageError(f"{where}: no data or earlier step is called {name!r}; there are: {known}")
        return tuple(found)

    def rows(self, value: Any, where: str) -> tuple[Source, ...]:
        """What a name or a list of names in a step stands for."""
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UsageError(f"{where}: must be a name or a list of names, not {value!r}")
        return self.sources(names, where.rpartition(".")[0])

    def model(self, name: str, where: str) -> Source:
        if name in self.nodes and STAGES[self.nodes[name].stage].output == "model":
            return Source(node=name)
        if name in self.models:
            return Source(artifact=self.models[name])
        raise UsageError(f"{where}: no model or earlier train or quantize step is called {name!r}")

    def recipe(self, stage: str, values: dict[str, Any], where: str, model: str | None = None) -> dict[str, Any]:
        """`values` over the pipeline's own; what works on the model of an earlier step asks it as that step did."""
        fields = STAGES[stage].recipe.model_fields
        asked: dict[str, Any] = {"system_prompt": self.pipeline.system_prompt, "video": self.pipeline.video}
        if model in self.nodes:
            asked |= {name: self.nodes[model].recipe[name] for name in asked}
        chosen = {name: value for name, value in asked.items() if name in fields} | values
        if isinstance(video := values.get("video"), dict):
            chosen["video"] = asked["video"] | video
        try:
            return parse_recipe(stage, chosen).model_dump(mode="json")
        except ValidationError as error:
            raise UsageError(f"{where}: {_first_problem(error)}") from error

    def add(self, name: str, stage: str, recipe: dict[str, Any], inputs: dict[str, tuple[Source, ...]], k: int) -> None:
        version = STAGES[stage].version
        self.nodes[name] = Node(name=name, stage=stage, version=version, recipe=recipe, inputs=inputs, replicate=k)

    def step(self, name: str, body: dict[str, Any]) -> None:
        where = f"steps.{name}"
        values = dict(body)
        stage = values.pop("stage", None)
        if stage not in ("label", "augment", "train", "quantize"):
            raise UsageError(f"{where}.stage: must be label, augment, train or quantize, not {stage!r}")
        inputs: dict[str, tuple[Source, ...]] = {}
        contract = STAGES[stage].inputs
        model = None
        if "model" in contract:
            model = str(values.pop("model", None))
            inputs["model"] = (self.model(model, where),)
        for given in [given for given in ("data", "validation") if given in contract]:
            if rows := self.rows(values.pop(given, []), f"{where}.{given}"):
                inputs[given] = rows
            elif contract[given].required:
                raise UsageError(f"{where}.{given}: say which data this step works on")
        replicate = values.pop("replicate", 0)
        if not isinstance(replicate, int):
            raise UsageError(f"{where}.replicate: must be a number, not {replicate!r}")
        recipe = self.recipe(stage, values, where, model if stage == "quantize" else None)
        if stage == "quantize":
            _check_calibration(recipe, inputs.get("data", ()), f"{where}.data")
        self.add(name, stage, recipe, inputs, replicate)

    def engine(self, model: str, wanted: Engine, where: str) -> str:
        """The engine that answers for a model of this plan.

        Raises:
            UsageError: vLLM is asked for, and has no kernel here for the model's format.
        """
        scheme = self.scheme(model)
        lacks = scheme in self.lacking
        if lacks and wanted == "vllm":
            raise UsageError(
                f"{where}.engine: vLLM has no kernel here for {scheme} (ROADQA_VLLM_LACKS): say auto or transformers"
            )
        return "transformers" if lacks or wanted == "transformers" else "vllm"

    def predict(
        self, model: str, data: str, engine: Engine, system_prompt: str | None, asking: Asking, where: str
    ) -> str:
        source = self.model(model, where)
        values: dict[str, Any] = {"engine": self.engine(model, engine, where)} | asking.model_dump()
        if system_prompt:
            values["system_prompt"] = system_prompt
        recipe = self.recipe("predict", values, where, model)
        name = f"predict {model} on {data} ({', '.join([recipe['engine'], recipe['system_prompt'], *_asked(asking)])})"
        if name not in self.nodes:
            inputs = {"model": (source,), "data": self.sources([data], where)}
            self.add(name, "predict", recipe, inputs, 0)
        return name

    def seen(self, model: str) -> tuple[Source, ...]:
        """The rows a model was trained on, chosen by or calibrated with, through earlier runs back to the base."""
        node = self.nodes.get(model)
        if node is None:
            return self.seen_before(self.models[model])
        own = [s for name in seen_inputs(node.stage, node.recipe) for s in node.inputs.get(name, ())]
        (source,) = node.inputs["model"]
        before = self.seen(source.node) if source.node else self.seen_before(str(source.artifact))
        return tuple(dict.fromkeys([*own, *before]))

    def seen_before(self, artifact: str) -> tuple[Source, ...]:
        return tuple(Source(artifact=part) for part in self.made.get(artifact, Made()).trained_on)

    def scheme(self, model: str) -> str | None:
        """How a model of this plan is quantised."""
        node = self.nodes.get(model)
        return node.recipe.get("scheme") if node else self.made.get(self.models.get(model, ""), Made()).scheme

    def gate(self, model: str, spec: ReportRow, report: ReportSpec, where: str) -> Gate | None:
        """What a row's model must keep of its parent's accuracy."""
        if spec.gate is not None and spec.parent is None:
            raise UsageError(f"{where}.gate: there is no parent to compare with; say `parent`")
        return spec.gate or (report.gate if self.scheme(model) and spec.parent else None)

    def evaluate(
        self, predict: str, parent: str | None, model: str, test: str, gate: Gate | None = None, *, judged: bool = True
    ) -> str:
        """Scores; with a gate, or where a quantised model has a parent, a verdict on the model too.

        Not `judged`: beside a row that is no parent, whose answers say nothing of what the model kept.
        """
        name = f"evaluate {predict}"
        name += (f" {'against' if judged else 'beside'} {parent}" if parent else "") + _under(gate)
        if name not in self.nodes:
            inputs = {"predictions": (Source(node=predict),), "data": self.sources([test], "report.test")}
            if parent:
                inputs["parent"] = (Source(node=parent),)
            if seen := self.seen(model):
                inputs["seen"] = seen
            if judged and parent and (gate or self.scheme(model)):
                inputs["model"] = (self.model(model, name),)
            self.add(name, "evaluate", self.recipe("evaluate", {"leaks": self.leaks, "gate": gate}, name), inputs, 0)
        return name

    def row(self, name: str, spec: ReportRow, report: ReportSpec) -> PlannedRow:
        where = f"report.rows.{name}"
        model = spec.model or name
        predict = self.predict(model, report.test, spec.engine, spec.system_prompt, spec.asking, where)
        recipe = self.nodes[predict].recipe
        parent_predict = parent_evaluate = None
        if spec.parent is not None:
            parent_predict = self.beside(spec.parent, report, recipe["engine"], f"{where}.parent")
            parent, parent_model = report.rows[spec.parent], report.rows[spec.parent].model or spec.parent
            if self.engine(parent_model, parent.engine, f"report.rows.{spec.parent}") != recipe["engine"]:
                parent_evaluate = self.evaluate(parent_predict, None, parent_model, report.test)
        against: dict[str, str] = {}
        for other in spec.against:
            if other in (name, spec.parent):
                raise UsageError(f"{where}.against: {other!r} is the row itself or its parent; name another row")
            other_predict = self.beside(other, report, recipe["engine"], f"{where}.against")
            against[other] = self.evaluate(predict, other_predict, model, report.test, judged=False)
        return PlannedRow(
            name=name,
            parent=spec.parent,
            model=model,
            engine=recipe["engine"],
            system_prompt=recipe["system_prompt"],
            predict=predict,
            evaluate=self.evaluate(predict, parent_predict, model, report.test, self.gate(model, spec, report, where)),
            parent_evaluate=parent_evaluate,
            against=against,
        )

    def beside(self, name: str, report: ReportSpec, engine: Engine, where: str) -> str:
        """The predictions of a row on another's engine, which alone may be compared with the other's."""
        spec = report.rows.get(name)
        if spec is None:
            raise UsageError(f"{where}: no row is called {name!r}")
        if engine == "vllm" and (scheme := self.scheme(spec.model or name)) in self.lacking:
            raise UsageError(
                f"{where}: vLLM, which this row is asked on, has no kernel here for the {scheme} of {name!r}"
                " (ROADQA_VLLM_LACKS): say `engine: transformers` in this row"
            )
        return self.predict(spec.model or name, report.test, engine, spec.system_prompt, spec.asking, where)


def _under(gate: Gate | None) -> str:
    asked = gate.model_dump(exclude_none=True) if gate else {}
    return f" under {', '.join(f'{name} {value}' for name, value in asked.items())}" if asked else ""


def _asked(asking: Asking) -> list[str]:
    """In words, where a question is not asked as usual."""
    chosen = asking.model_dump(exclude_defaults=True)
    return [name if value is True else f"{name} {value}" for name, value in chosen.items()]


def _check_calibration(recipe: Mapping[str, Any], data: Collection[Source], where: str) -> None:
    """Refuse a quantize step that lacks its rows, or is given rows that it would not look at."""
    calibrated = QuantizeRecipe.model_validate(recipe).calibrated
    if calibrated and not data:
        raise UsageError(f"{where}: {recipe['scheme']} is calibrated on rows: say which, or set `calibration: none`")
    if data and not calibrated:
        how = "calibration: none" if SCHEMES[recipe["scheme"]].calibrated else recipe["scheme"]
        raise UsageError(f"{where}: {how} looks at no rows: leave `data` out")


def make_plan(
    pipeline: Pipeline,
    datasets: Mapping[str, tuple[str, ...]],
    models: Mapping[str, str],
    made: Mapping[str, Made] = MappingProxyType({}),
    lacking: Container[str] = (),
) -> Plan:
    """The graph of a pipeline whose data and models have been resolved to artifacts.

    `made` tells of models from earlier runs, by artifact; `lacking` are the quantisation schemes that the
    deployment's vLLM has no kernel for.

    Raises:
        UsageError: a step or row names what does not exist, or a recipe is wrong; says where.
    """
    planner = _Planner(pipeline, datasets, models, made, lacking)
    for name, body in pipeline.steps.items():
        if name in datasets or name in models:
            raise UsageError(f"steps.{name}: data or a model has that name already; choose another")
        planner.step(name, body)
    report = pipeline.report
    rows = tuple(planner.row(name, spec, report) for name, spec in report.rows.items()) if report else ()
    submission = pipeline.submission
    if submission and submission.data not in datasets:
        raise UsageError(f"submission.data: {submission.data!r} is none of the `data`: {', '.join(datasets)}")
    predict = (
        planner.predict(submission.model, submission.data, submission.engine, None, submission.asking, "submission")
        if submission
        else None
    )
    return Plan(
        name=pipeline.name,
        nodes=tuple(planner.nodes.values()),
        datasets=dict(datasets),
        models=dict(models),
        rows=rows,
        test=report.test if report else None,
        submission=predict,
        submission_data=submission.data if submission else None,
        limits=pipeline.limits,
    )
