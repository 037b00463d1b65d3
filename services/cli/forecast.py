"""What a run will take, said before it starts: memory, storage, money, and hours where a pace has been measured."""

from typing import Any, NamedTuple

from services.cli import pace
from services.cli.estimate import Estimate, estimate
from services.cli.ground import Ground, Past, past, survey
from services.cli.memory import CONTEXT, GIB, Devices, Setting, Verdict, most_patches, need, remedies, verdict
from services.cli.rowcount import Reach, longest, rows_an_epoch
from shared import geometry, published, schemes
from shared.budget import TEMPORAL_PATCH
from shared.contracts import STAGES, QuantizeRecipe, TrainRecipe
from shared.errors import InputError, UsageError
from shared.footprint import CHECKPOINTS, FLOAT32, VALUE, Footprint, Model, checkpoint_bytes, counts, model
from shared.pipeline import Node, Pipeline
from shared.schema import Frozen
from shared.settings import settings
from shared.spread import GPU_MICRO_BATCH, spread
from shared.store import Store

BFLOAT16 = 2  #: bytes a weight of a published checkpoint, which the results have too


class Memory(Frozen):
    """Bytes on one device; `host` in main memory for it."""

    weights: int
    optimiser: int
    gradients: int
    buckets: int
    activations: int
    step: int
    host: int
    peak: int


class Hours(Frozen):
    """A time from a measured pace."""

    hours: float
    samples_per_second: float
    source: str  #: where it was measured


class Training(Frozen):
    """A train step."""

    step: str
    model: str
    parameters: int
    trained: int  #: of them, and of the adapters
    by_module: dict[str, int]
    processes: int
    micro_batch: int
    accumulation: int
    recipe: dict[str, Any]
    row_tokens: int  #: of the longest row
    visual_tokens: int
    rows_known: bool  #: False: the longest row is what the video budget allows
    fitting_seconds: float | None  #: of the longest clips that fit, where longer ones would not
    memory: Memory
    verdict: Verdict | None
    remedies: tuple[str, ...]
    rows: int | None  #: in an epoch, at most
    hours: Hours | None
    checkpoint_bytes: int
    result_bytes: int
    done: bool


class Quantising(Frozen):
    """A quantize step."""

    step: str
    scheme: str
    bytes_before: int
    bytes_after: int
    layer_bytes: int  #: of the decoder layer that is on the accelerator, in 16 bits
    host_bytes: int  #: the whole model in main memory, with what calibration keeps there
    seconds: float | None
    source: str | None
    problem: str | None
    done: bool


class Storage(Frozen):
    """Bytes in the object store."""

    clips: int | None  #: there already; None where some data are not
    checkpoints: int  #: in scratch at once, the newest two of the largest training
    models: int
    quantised: int


class Forecast(Frozen):
    """The whole of it."""

    pipeline: str
    devices: str | None
    missing: tuple[str, ...]
    training: tuple[Training, ...]
    quantising: tuple[Quantising, ...]
    storage: Storage
    teachers: tuple[Estimate, ...]
    teachers_unknown: tuple[str, ...]  #: steps whose rows are not in the store
    refused: tuple[str, ...]


class _Weights(NamedTuple):
    """A model of the pipeline, by its sizes."""

    config: published.Config
    of: Model


def forecast(
    store: Store | None, pipeline: Pipeline, devices: Devices, said: str | None, missing: tuple[str, ...] = ()
) -> Forecast:
    """What a run of `pipeline` will take.

    Args:
        store: None where it does not answer; `missing` says so.
        said: the devices in the user's words.

    Raises:
        UsageError: the pipeline is wrong.
        InputError: a model of it is none that is trained here.
    """
    ground = survey(store, pipeline, missing)
    return _Forecaster(store, pipeline, ground, devices).all(said)


class _Forecaster:
    def __init__(self, store: Store | None, pipeline: Pipeline, ground: Ground, devices: Devices) -> None:
        self._store, self._pipeline, self._ground, self._devices = store, pipeline, ground, devices
        self._reach = Reach(ground.data, pipeline.steps)
        self._weights: dict[str, _Weights] = {
            name: _Weights(config, model(config)) for name, config in ground.configs.items()
        }

    def all(self, said: str | None) -> Forecast:
        nodes = [node for node in self._ground.plan.nodes if node.stage in ("train", "quantize")]
        known = [node for node in nodes if self._base(node.name) in self._weights]
        training = tuple(self._training(node) for node in known if node.stage == "train")
        quantising = tuple(self._quantising(node) for node in known if node.stage == "quantize")
        teachers, unknown = self._teachers()
        return Forecast(
            pipeline=self._pipeline.name,
            devices=said,
            missing=self._ground.missing,
            training=training,
            quantising=quantising,
            storage=self._storage(training, quantising),
            teachers=teachers,
            teachers_unknown=unknown,
            refused=tuple([*_misfits(training, said), *(f"{q.step}: {q.problem}" for q in quantising if q.problem)]),
        )

    def _base(self, step: str) -> str:
        """The pipeline's model that a step goes back to."""
        while step in self._pipeline.steps:
            step = str(self._pipeline.steps[step].get("model"))
        return step

    def _training(self, node: Node) -> Training:
        recipe, base = TrainRecipe.model_validate(node.recipe), self._base(node.name)
        of, devices = self._weights[base].of, self._devices
        at_once = settings().trainer_micro_batch or (GPU_MICRO_BATCH if devices.cuda else recipe.global_batch)
        setting = Setting(recipe, at_once)
        rows = self._reach.of(node.name)
        load = longest(rows, recipe)
        dealt, batch = spread(recipe.global_batch, devices.number, at_once), load.batch(setting, devices)
        held, counted = need(of, setting, load, devices), counts(of, recipe)
        fit, patches = verdict(held, devices), None
        unknown = rows is None or not rows.clips  # and so there may be no row as long as that
        if fit == "does not fit" and unknown and (patches := most_patches(of, setting, load, devices)):
            fit = "long clips do not fit"
        count = None if rows is None else rows_an_epoch(rows, recipe)
        found = pace.training(self._past("train"), of, recipe, dealt, batch.tokens, devices.cuda)
        done = node.name in self._ground.done
        return Training(
            step=node.name,
            model=base,
            parameters=of.total,
            trained=counted.trained,
            by_module=dict(of.parameters),
            processes=dealt.processes,
            micro_batch=dealt.micro_batch,
            accumulation=dealt.accumulation,
            recipe=node.recipe,
            row_tokens=batch.tokens,
            visual_tokens=batch.visual,
            rows_known=rows is not None and bool(rows.clips),
            memory=_memory(held),
            verdict=fit,
            fitting_seconds=patches * TEMPORAL_PATCH / recipe.video.fps if patches else None,
            remedies=() if done or fit in (None, "fits") else tuple(remedies(of, setting, load, devices)),
            rows=count,
            hours=_hours(found, count, recipe.epochs),
            checkpoint_bytes=checkpoint_bytes(counted, VALUE[recipe.precision], recipe.lora is not None),
            result_bytes=BFLOAT16 * of.total,
            done=done,
        )

    def _quantising(self, node: Node) -> Quantising:
        recipe, weights = QuantizeRecipe.model_validate(node.recipe), self._weights[self._base(node.name)]
        shapes = geometry.shapes(weights.config)
        problem, after = None, 0
        try:
            schemes.check_fit(shapes, recipe.scheme, recipe.group_size)
            after = schemes.expected_bytes(shapes, recipe.scheme, recipe.group_size)
        except InputError as error:
            problem = str(error)
        layer = geometry.parameters({n: s for n, s in shapes.items() if n.startswith(f"{geometry.LAYERS}.0.")})
        seconds, source = pace.quantising(self._past("quantize"), weights.of, recipe)
        return Quantising(
            step=node.name,
            scheme=recipe.scheme,
            bytes_before=BFLOAT16 * weights.of.total,
            bytes_after=after,
            layer_bytes=BFLOAT16 * layer,
            host_bytes=BFLOAT16 * weights.of.total + self._calibration(node, recipe, weights.of),
            seconds=seconds,
            source=source,
            problem=problem,
            done=node.name in self._ground.done,
        )

    def _calibration(self, node: Node, recipe: QuantizeRecipe, of: Model) -> int:
        """Bytes of the rows' pixels and of one layer's inputs and outputs, which wait in main memory."""
        if not recipe.calibrated:
            return 0
        as_trained = TrainRecipe(system_prompt=recipe.system_prompt, video=recipe.video)
        batch = longest(self._reach.of(node.name), as_trained).batch(Setting(as_trained, 1), Devices(1, None))
        pixels = batch.visual * of.sizes.cell * of.sizes.pixels * FLOAT32
        return recipe.calibration_rows * (pixels + 2 * batch.tokens * of.sizes.hidden * BFLOAT16)

    def _past(self, stage: str) -> list[Past]:
        return list(past(self._store, stage)) if self._store else []

    def _teachers(self) -> tuple[tuple[Estimate, ...], tuple[str, ...]]:
        paid = [node for node in self._ground.plan.nodes if STAGES[node.stage].costs(node.recipe)]
        unknown = {node.name for node in paid if self._reach.of(node.name) is None}
        if self._store is None or unknown:
            blind = tuple(sorted(unknown))
            return (), blind
        return tuple(estimate(self._store, self._ground.plan)), ()

    def _storage(self, training: tuple[Training, ...], quantising: tuple[Quantising, ...]) -> Storage:
        data = self._ground.data
        clips = {digest: clip.size_bytes for found in data.values() for digest, clip in found.clips.items()}
        return Storage(
            clips=sum(clips.values()) if data.keys() == self._pipeline.data.keys() else None,
            checkpoints=max((CHECKPOINTS * one.checkpoint_bytes for one in training if not one.done), default=0),
            models=sum(one.result_bytes for one in training if not one.done),
            quantised=sum(one.bytes_after for one in quantising if not one.done),
        )


def _memory(held: Footprint) -> Memory:
    return Memory(peak=round(held.peak), **{name: round(size) for name, size in held._asdict().items()})


def _hours(found: pace.Pace | None, rows: int | None, epochs: float) -> Hours | None:
    if found is None or rows is None:
        return None
    seconds = rows * epochs / found.samples_per_second
    return Hours(hours=seconds / 3600, samples_per_second=found.samples_per_second, source=found.source)


def _misfits(training: tuple[Training, ...], said: str | None) -> list[str]:
    """One line for each training that does not fit."""
    lines = []
    for one in training:
        if one.verdict == "does not fit" and not one.done:
            fits = "; would fit: " + " | ".join(one.remedies) if one.remedies else "; no setting was found that would"
            lines.append(f"{one.step}: needs {(one.memory.peak + CONTEXT) / GIB:.1f} GiB on each of {said}{fits}")
    return lines


def check(found: Forecast) -> None:
    """Refuse a run that cannot fit.

    Raises:
        UsageError: one line: the first of what does not fit, and the settings that would.
    """
    if found.refused:
        more = f" (and {len(found.refused) - 1} more, above)" if len(found.refused) > 1 else ""
        raise UsageError(f"steps.{found.refused[0]}{more}")
