"""What each stage takes, gives, and is configured by.

A *recipe* decides the result and is hashed; *runtime* settings (`shared/settings.py`) do not and
are not. Bump a stage's version in `STAGES` when its verb would give another result for the same
recipe: `make check` asks for it.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple, Self, get_args

from pydantic import ConfigDict, Field, model_validator

from shared.budget import VideoBudget
from shared.prompts import SystemPrompt
from shared.schema import Frozen, Question
from shared.schemes import SCHEMES, GroupSize, SchemeName

Seed = Annotated[int, Field(ge=0, lt=2**32)]


class Recipe(Frozen):
    """What decides a stage's result."""

    model_config = ConfigDict(allow_inf_nan=False)


class TeacherRecipe(Recipe):
    """A teacher model. Where its server is, its key, its pace, and whether it is asked in batches are settings."""

    provider: Literal["gemini", "openai"] = "gemini"  #: openai: any server of that protocol, such as vLLM
    model: str = "gemini-2.5-pro"
    fps: float = Field(2.0, gt=0, le=24)  #: frames a second it is asked to look at; an openai server's own for clips
    video: Literal["clip", "frames"] = "clip"  #: frames: pictures, for an openai server that takes no video
    media_resolution: Literal["default", "low", "medium", "high"] = "default"  #: of each frame; not for openai clips
    temperature: float = Field(0.7, ge=0, le=2)
    thinking_budget: int = Field(-1, ge=-1)  #: tokens; -1 lets the model choose, 0 turns thinking off; gemini only
    max_output_tokens: int = Field(8192, ge=64)  #: of one answer, thinking included; one cut off gets up to 4 times it

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if self.provider == "gemini" and self.video == "frames":
            raise ValueError("video: frames is for provider openai; Gemini takes the clip and `fps`")
        if self.provider == "openai" and self.thinking_budget != -1:
            raise ValueError("thinking_budget is for provider gemini; set thinking at the openai server")
        own = (self.fps, self.media_resolution) == (2.0, "default")
        if self.provider == "openai" and self.video == "clip" and not own:  # vLLM takes no word on either
            raise ValueError(
                "fps and media_resolution with provider openai need video: frames; of a clip the server chooses"
            )
        return self


#: Requests of one round on one question: five votes and their verification.
LABEL_CALLS = 6


class LabelRecipe(Recipe):
    """Five prompts, one cross-verification, consensus."""

    teacher: TeacherRecipe = TeacherRecipe()
    min_agreement: float = Field(0.6, ge=0, le=1)  #: share of usable votes that must agree
    extra_rounds: int = Field(2, ge=0, le=2)  #: fresh votes for inconsistent questions
    answered: Literal["skip", "ask"] = "skip"  #: ask: also label questions that have an answer, to see how far to trust
    seed: Seed = 0


#: What of a row a teacher may put otherwise.
Way = Literal["question", "choices", "scenario"]
#: Requests for one variation: it is made, and checked by another.
AUGMENT_CALLS = 2
#: Variations asked for, for each one wanted, before a question is given up.
AUGMENT_TRIES = 3


class AugmentRecipe(Recipe):
    """Text-only variations of questions and choices."""

    method: Literal["rules", "teacher"] = "rules"
    per_question: int = Field(1, ge=1, le=8)  #: variations wanted of each question
    ways: tuple[Way, ...] = Field(("question", "choices", "scenario"), min_length=1)  #: the teacher's, in turn
    teacher: TeacherRecipe = TeacherRecipe()
    gates: bool = True  #: False keeps whatever is made, to measure what the gates are worth
    seed: Seed = 0


class LoraRecipe(Recipe):
    """Low-rank adapters, merged into the weights when the model is saved."""

    rank: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    dropout: float = Field(0.05, ge=0, lt=1)
    #: Which linear layers of the trained modules get one: a regular expression of the whole name, or ends of names.
    targets: str | tuple[str, ...] | None = Field(None, min_length=1)  #: None: all but the patch embedding and lm_head

    @model_validator(mode="after")
    def _readable(self) -> Self:
        try:
            re.compile(self.targets if isinstance(self.targets, str) else "")
        except re.error as error:
            raise ValueError(f"targets: {self.targets!r} is no regular expression: {error}") from error
        return self


#: DeepSpeed's ZeRO stage, and what of the training lies in the host's memory instead of the device's: the optimizer's
#: state and master weights; at zero3-offload the parameters too.
Zero = Literal["zero0", "zero1", "zero1-offload", "zero2", "zero2-offload", "zero3", "zero3-offload"]
#: The vision tower; what maps its output into the language model's space (merger, deepstack mergers); the rest.
ModuleName = Literal["vision", "projector", "language"]


class Module(Recipe):
    """How one part of the model is trained."""

    train: bool = True  #: False: its weights stay as they are, and under LoRA it gets no adapter
    learning_rate: float | None = Field(None, gt=0)  #: at its highest; None: the recipe's


class EarlyStop(Recipe):
    """The rows of the step's `validation` are scored every so often; the best weights become the result."""

    every_epochs: float = Field(0.5, gt=0)
    patience: int | None = Field(3, ge=1)  #: validations without a gain after which training ends; None: it never does


#: Where a training row comes from: a person answered it, a teacher did, or it was made from another.
Source = Literal["human", "teacher", "augmented"]


def source(question: Question) -> Source:
    """Where a row with an answer comes from."""
    if question.origin.parent is not None:
        return "augmented"
    return "teacher" if question.origin.answer == "teacher" else "human"


class Portion(Recipe):
    """How much of a source goes into a training mix."""

    weight: float = Field(1.0, gt=0, le=100)  #: times that its rows come in an epoch; 0.5: half, others each time
    cap: int | None = Field(None, ge=1)  #: rows of it at most, drawn by the seed


class TrainRecipe(Recipe):
    """Supervised fine-tuning on letters."""

    epochs: float = Field(2.0, gt=0)
    learning_rate: float = Field(1e-5, gt=0)
    warmup_share: float = Field(0.03, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)  #: of matrices; norms and biases have none
    global_batch: int = Field(16, ge=1)  #: rows per optimiser step, over all processes
    pack: int = Field(1, ge=1)  #: up to so many rows of a clip in one sequence, which computes it once for all
    zero: Zero = "zero2"
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    gradient_checkpointing: bool | None = None  #: activations computed twice, to save memory; None: on CUDA
    lora: LoraRecipe | None = None  #: None trains all weights
    modules: dict[ModuleName, Module] = {}  #: those not named are trained at `learning_rate`
    loss_on: Literal["answer", "reasoning"] = "answer"  #: reasoning: also on a teacher's words for its answer
    reasoning_tokens: int = Field(256, ge=8)  #: of those words at most; the rest is cut
    early_stop: EarlyStop = EarlyStop()  #: counts where the step has `validation`
    shuffle_choices: bool = True  #: a fresh order of the choices each epoch, the answer followed
    liger: bool = True  #: Liger kernels where CUDA is present; they change speed and memory, not the loss
    system_prompt: SystemPrompt = "expert"
    video: VideoBudget = VideoBudget()
    mix: dict[Source, Portion] = {}  #: by source; those not named come once in an epoch, all of them
    seed: Seed = 0

    @model_validator(mode="after")
    def _something_moves(self) -> Self:
        if not any(self.trains(name) for name in get_args(ModuleName)):
            raise ValueError("modules: vision, projector and language are all frozen; train one of them")
        return self

    def trains(self, name: ModuleName) -> bool:
        """Whether this part's weights (under LoRA its adapters) move."""
        return self.modules.get(name, Module()).train

    def rate(self, name: ModuleName) -> float:
        """The highest learning rate of this part."""
        return self.modules.get(name, Module()).learning_rate or self.learning_rate


#: What calibration shows of a row: clip and text, one frame and text, text alone; none rounds weights by themselves.
Calibration = Literal["video", "frame", "text", "none"]


class QuantizeRecipe(Recipe):
    """The text tower's weights to four or eight bits; vision tower, embeddings and lm_head stay in 16."""

    scheme: SchemeName
    calibration: Calibration = "video"  #: awq and gptq; the others look at no data
    calibration_rows: int = Field(256, ge=1)  #: awq and gptq
    group_size: GroupSize = 128  #: awq and gptq; the others fix theirs
    system_prompt: SystemPrompt = "expert"
    video: VideoBudget = VideoBudget()
    seed: Seed = 0

    @property
    def calibrated(self) -> bool:
        """Whether it works on rows."""
        return SCHEMES[self.scheme].calibrated and self.calibration != "none"


class Asking(Recipe):
    """How often and in what way each question is put to the model; by default once, for a letter alone.

    A question is asked `samples` times in each of its orders; its answer is what they say together.
    """

    rotate: int = Field(1, ge=1, le=26)  #: orders of the choices at most; each free choice stands at as many places
    reasoning: bool = False  #: the model writes what it sees first, and answers with that before it
    reasoning_tokens: int = Field(256, ge=8, le=8192)  #: of those words at most; the rest is cut
    samples: int = Field(1, ge=1, le=64)  #: reasonings for each order
    temperature: float = Field(0.0, ge=0, le=2)  #: of the reasoning; 0: always the likeliest token
    vote: Literal["mean", "majority"] = "mean"  #: of the choices' probabilities; of the answers, the mean among equals
    seed: Seed = 0  #: of the samples

    @model_validator(mode="after")
    def _each_option_counts(self) -> Self:
        if self.samples > 1 and not self.reasoning:
            raise ValueError(
                "samples: without reasoning each would be the same letters' log-probabilities; say reasoning: true, or"
                " use rotate"
            )
        if not self.reasoning and (self.temperature or self.reasoning_tokens != 256):
            raise ValueError("temperature and reasoning_tokens are of the reasoning: say reasoning: true")
        if self.samples > 1 and not self.temperature:
            raise ValueError("samples: at temperature 0 they are all the same; say temperature: 0.7")
        if self.vote == "majority" and self.rotate * self.samples == 1:
            raise ValueError("vote: majority of one answer; ask more often by rotate or samples")
        return self


class PredictRecipe(Asking):
    """Answers constrained to each question's own letters, by the likeliest choice."""

    engine: Literal["vllm", "transformers"] = "vllm"
    system_prompt: SystemPrompt = "expert"
    video: VideoBudget = VideoBudget()


class Gate(Recipe):
    """What a checkpoint must keep of its parent's accuracy, on the same questions and engine, to be promoted."""

    max_drop: float | None = Field(None, ge=0, le=1)  #: of the share answered rightly: 0.02 is two points
    min_recovery: float | None = Field(None, gt=0, le=1)  #: accuracy divided by the parent's
    by: Literal["estimate", "interval"] = "estimate"  #: interval: the interval's worse end must hold too

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if self.max_drop is None and self.min_recovery is None:
            raise ValueError("say max_drop (0.02: two points), min_recovery (0.98), or both")
        return self


class EvaluateRecipe(Recipe):
    """Accuracy with its interval, and the paired test against the parent."""

    resamples: int = Field(10_000, ge=100)  #: cluster bootstrap over recordings
    confidence: float = Field(0.95, gt=0, lt=1)
    leaks: Literal["refuse", "mark"] = "refuse"  #: what to do where the model was trained on clips of the test
    gate: Gate | None = None  #: what the model must keep of its parent's accuracy
    seed: Seed = 0


StageName = Literal["label", "augment", "train", "quantize", "predict", "evaluate"]
Kind = Literal["rows", "dataset", "model", "predictions", "scores"]


class Input(NamedTuple):
    """One named input of a stage: artifacts of `kind`."""

    kind: Kind
    required: bool = True
    clips: bool = True  #: rows only: whether the clips' bytes are fetched beside the questions
    only: tuple[str, ...] = ()  #: files that are fetched; empty: all of them


class Stage(NamedTuple):
    """A stage's contract. `fan_out` names the input that is worked on one artifact (shard) at a time."""

    name: StageName
    version: int
    queue: str
    recipe: type[Frozen]
    inputs: dict[str, Input]
    output: Kind
    fan_out: str | None = None
    about: str | None = None  #: input of whose artifacts the output speaks: it is found from them (`shared/store.py`)
    asks_teacher: bool = False  #: may cost money; its journal is for all tasks, and stays: the answers were paid for

    def costs(self, recipe: Mapping[str, Any]) -> bool:
        """Whether this recipe's work is paid for."""
        return self.asks_teacher and recipe.get("method") != "rules"


STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage("label", 3, "labeler", LabelRecipe, {"data": Input("rows")}, "rows", "data", asks_teacher=True),
        Stage("augment", 3, "augmenter", AugmentRecipe,
              {"data": Input("rows", clips=False)}, "rows", "data", asks_teacher=True),
        Stage("train", 6, "trainer", TrainRecipe,
              {"model": Input("model"), "data": Input("rows"), "validation": Input("rows", required=False)}, "model"),
        Stage("quantize", 5, "quantizer", QuantizeRecipe,
              {"model": Input("model"), "data": Input("rows", required=False)}, "model"),
        Stage("predict", 4, "inference", PredictRecipe,
              {"model": Input("model"), "data": Input("rows")}, "predictions", "data"),
        Stage("evaluate", 6, "inference", EvaluateRecipe,
              {"predictions": Input("predictions"), "parent": Input("predictions", required=False),
               "data": Input("rows", clips=False), "seen": Input("rows", required=False, clips=False),
               "model": Input("model", required=False, only=("card.json",))},
              "scores", about="model"),
    )
}  # fmt: skip


def seen_inputs(stage: str, recipe: Mapping[str, Any]) -> tuple[str, ...]:
    """Inputs of a stage whose rows its model knows: learned, chosen by, or (their answers too) calibrated with."""
    if stage == "train":
        return "data", "validation"
    return ("data",) if stage == "quantize" and QuantizeRecipe.model_validate(recipe).calibrated else ()


def parse_recipe(stage: str, values: dict[str, Any]) -> Frozen:
    """Validate `values` as the recipe of `stage`.

    Raises:
        pydantic.ValidationError: a field is unknown or out of bounds.
    """
    return STAGES[stage].recipe.model_validate(values)
