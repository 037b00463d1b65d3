"""Whether a training fits the devices, and which setting would make it fit."""

import itertools
import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

from shared.activations import Batch
from shared.budget import VideoBudget
from shared.contracts import LoraRecipe, TrainRecipe, Zero
from shared.errors import UsageError
from shared.footprint import Footprint, Model, footprint
from shared.spread import spread

GIB = 2**30
#: Kept from a device: the CUDA context and the libraries' workspaces. Assumed; not measured.
CONTEXT = GIB
#: What torch's allocator takes for what is asked of it, at most, with Liger (1.07 to 1.13 in five rows of
#: `benchmarks/results/training_gpu.json`; without Liger 1.15 to 1.58, of which it gives some back before it fails).
ALLOCATOR = 1.13
_DEVICES = re.compile(r"(?:(\d{1,4})\s*[x×]\s*)?(?:(\d{1,5}(?:\.\d+)?)\s*(?:GB|GiB|G)|CPU)", re.IGNORECASE)
ZEROS: tuple[Zero, ...] = get_args(Zero)  #: from the most memory on the device to the least
_TOGETHER, _SHOWN = 3, 3  #: changes proposed at once, and proposals, at most
_CAP_STEP, _LEAST_CAP = 16, 64  #: tokens: a proposed cap is a multiple of one, and no less than the other

#: tight: the tensors fit, but what torch's allocator wastes may not. long clips: shorter ones fit.
Verdict = Literal["fits", "tight", "long clips do not fit", "does not fit"]


class Devices(NamedTuple):
    """Alike devices, one for each process of a training."""

    number: int
    each: float | None  #: bytes; None: not said
    cuda: bool = True  #: False: CPU processes, which share a machine's memory


def parse_devices(text: str) -> Devices:
    """`8x80GB`, `24GB`, or `2xCPU` for processes without an accelerator.

    A card's gigabytes are 2^30 bytes, as its maker counts them.

    Raises:
        UsageError: it is not of that form.
    """
    match = _DEVICES.fullmatch(text.strip())
    if match is None or float(match[1] or 1) == 0 or float(match[2] or 1) == 0:
        form = "how many, and the memory of each: 8x80GB; without an accelerator 2xCPU"
        raise UsageError(f"--devices: {text!r} is not understood; write {form}")
    each = float(match[2]) * GIB if match[2] else None
    return Devices(int(match[1] or 1), each, cuda=each is not None)


class Setting(NamedTuple):
    """A training as it would run."""

    recipe: TrainRecipe
    micro_batch: int  #: at most; the global batch decides the rest


class Load(NamedTuple):
    """Rows as a model sees them: what a clip costs in visual tokens under a cap, and the words beside."""

    patches: int  #: temporal patches of the longest row
    per_patch: int  #: visual tokens in each, uncapped by `tokens_per_patch`
    words: int  #: tokens that are no visual ones

    def visual(self, video: VideoBudget) -> int:
        """Visual tokens of a temporal patch."""
        return min(self.per_patch, video.tokens_per_patch, max(1, video.tokens_per_clip // self.patches))

    def batch(self, setting: Setting, devices: Devices) -> Batch:
        """The longest micro-batch there can be."""
        each = self.visual(setting.recipe.video)
        rows = spread(setting.recipe.global_batch, devices.number, setting.micro_batch).micro_batch
        return Batch(rows, self.patches * each + self.words, self.patches * each)


def need(model: Model, setting: Setting, load: Load, devices: Devices) -> Footprint:
    """What one device holds."""
    used = spread(setting.recipe.global_batch, devices.number, setting.micro_batch).processes
    return footprint(model, setting.recipe, used, load.batch(setting, devices), devices.cuda)


def verdict(held: Footprint, devices: Devices) -> Verdict | None:
    """None where the devices' memory is not known."""
    if devices.each is None:
        return None
    if held.peak + CONTEXT > devices.each:
        return "does not fit"
    return "tight" if held.peak * ALLOCATOR + CONTEXT > devices.each else "fits"


def most_patches(model: Model, setting: Setting, load: Load, devices: Devices) -> int:
    """The temporal patches of the longest row that fits, 0 where none does."""

    def too_long(patches: int) -> bool:
        shorter = load._replace(patches=patches)
        return verdict(need(model, setting, shorter, devices), devices) != "fits"

    return bisect_left(range(1, load.patches + 1), True, key=too_long)


Move = Callable[[Setting], tuple[Setting, str] | None]  #: the changed setting and its words; None: it changes nothing


def remedies(model: Model, setting: Setting, load: Load, devices: Devices) -> list[str]:
    """The fewest changes that make it fit, in words: of all weights and, where that is what is trained, under LoRA."""

    def fits(changed: Setting) -> bool:
        return verdict(need(model, changed, load, devices), devices) == "fits"

    found: dict[bool, dict[int, list[str]]] = {False: {}, True: {}}
    for moves in itertools.product(*((None, *kind) for kind in _kinds(fits, devices))):
        chosen = [move for move in moves if move is not None]
        changed, words = _made(setting, chosen)
        if chosen and len(words) == len(chosen) <= _TOGETHER and fits(changed):
            host = need(model, changed, load, devices).host / GIB
            room = f" and {host:.0f} GiB of main memory for each" if host else ""
            found[changed.recipe.lora is not None].setdefault(len(words), []).append(" with ".join(words) + room)
    return [words for ways in found.values() if ways for words in ways[min(ways)][:_SHOWN]]


def _made(setting: Setting, moves: Sequence[Move]) -> tuple[Setting, list[str]]:
    """The setting after the moves, and the words of those that changed it."""
    words: list[str] = []
    for move in moves:
        if made := move(setting):
            setting, said = made
            words.append(said)
    return setting, words


def _kinds(fits: Callable[[Setting], bool], devices: Devices) -> list[tuple[Move, ...]]:
    """What may be changed, one of each kind, from what leaves the result as it is to what does not."""
    zeros: tuple[Zero, ...] = ("zero2-offload", "zero3-offload")
    if devices.number > 1:
        zeros = ("zero3", *zeros)
    switches = ({"gradient_checkpointing": True}, {"liger": True})
    return [
        (_one_row,),
        tuple(partial(_zero, to=zero) for zero in zeros),
        *((partial(_switch, on=switch),) for switch in switches),
        (_lora,),
        (partial(_lower_cap, fits=fits),),
    ]


def _one_row(setting: Setting) -> tuple[Setting, str] | None:
    return (setting._replace(micro_batch=1), "ROADQA_TRAINER_MICRO_BATCH=1") if setting.micro_batch > 1 else None


def _zero(setting: Setting, to: Zero) -> tuple[Setting, str] | None:
    weaker = ZEROS.index(setting.recipe.zero) < ZEROS.index(to)
    return (_changed(setting, zero=to), f"zero: {to}") if weaker else None


def _switch(setting: Setting, on: dict[str, bool]) -> tuple[Setting, str] | None:
    ((name, wanted),) = on.items()
    off = getattr(setting.recipe, name) is False
    return (_changed(setting, **on), f"{name}: {str(wanted).lower()}") if off else None


def _lora(setting: Setting) -> tuple[Setting, str] | None:
    lora = LoraRecipe()
    return (_changed(setting, lora=lora), f"lora: {{rank: {lora.rank}}}") if setting.recipe.lora is None else None


def _lower_cap(setting: Setting, fits: Callable[[Setting], bool]) -> tuple[Setting, str] | None:
    """The largest cap that fits."""

    def lower(steps: int) -> Setting:
        video = setting.recipe.video.model_copy(update={"tokens_per_patch": steps * _CAP_STEP})
        return _changed(setting, video=video)

    steps = range(_LEAST_CAP // _CAP_STEP, (setting.recipe.video.tokens_per_patch - 1) // _CAP_STEP + 1)
    fitting = bisect_left(steps, True, key=lambda count: not fits(lower(count)))  # more tokens, more memory
    if fitting == 0:
        return None
    return lower(steps[fitting - 1]), f"video: {{tokens_per_patch: {steps[fitting - 1] * _CAP_STEP}}}"


def _changed(setting: Setting, **fields: Any) -> Setting:
    return setting._replace(recipe=setting.recipe.model_copy(update=fields))
