"""Makes the sandbox's base model: read lists, see sprites, then both together.

1. *reading*: the text tower learns to answer from visual tokens that are given, as sums of word embeddings.
2. *seeing*, beside it in another process: the vision tower learns to make those visual tokens.
3. *joint*: all weights, two processes, gradients averaged.

Steps are counted, not timed, and every process has one thread: the same seed gives the same model.
"""

import argparse
import json
import math
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, Qwen3VLForConditionalGeneration

from services.sandbox import words
from services.sandbox.tiny import architecture, forward, packing, seeding, tokenizer
from services.sandbox.tiny.packing import Example, Packer
from services.sandbox.tiny.primitives import CELL_WORDS, FRAMES, KINDS, PATCHES, SPOKEN, Primitive, ask, primitive
from shared import prompts

VOCABULARY = 768
LATER = ("light_says", "light_end_says", "sign_says")  #: kinds whose words the tokenizer has not learned
CLIPS = 16  #: clips a step and process, four questions each
QUESTIONS = 4
VIETNAMESE = 0.1  #: share of questions
IN_WORDS = 0.25  #: share of questions answered in words, without choices
SEEING_PATCHES = 96  #: temporal patches a step of the second stage
READING_STEPS, SEEING_STEPS = 350, 900
JOINT_STEPS = (300, 800, 250, 300)  #: rounds, each with its own warm-up and cosine
SPOKEN_FROM = 3  #: the round from which `SPOKEN` is asked too


def corpus() -> Iterator[str]:
    """What the tokenizer is trained on: the sandbox's texts, the prompts, turns and timestamps."""
    for _ in range(20):
        yield from words.all_texts(_kinds())
        yield from ("system", "user", "assistant", packing.IN_WORDS, "Answer with the letter.")
        yield str(prompts.system_text("short"))
    yield str(prompts.system_text("expert"))
    yield from (f"<{tenths / 10:.1f} seconds>" for tenths in range(100))
    yield from (f"{letter}. x" for letter in tokenizer.LETTERS for _ in range(200))


def _kinds() -> list[str]:
    return [kind for kind in words.POOLS if kind not in LATER]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer, every word of every option one token."""
    keys = {key for kind in _kinds() for key in words.POOLS[kind]}
    option_words = {word for key in keys for text in words.OPTIONS[key].values() for word in text.split()}
    return tokenizer.build(corpus(), option_words | set(CELL_WORDS), VOCABULARY)


class Teacher:
    """Examples drawn by lot, and the visual tokens they should give."""

    def __init__(self, codes: Tensor, tokens: PreTrainedTokenizerFast, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self._ids = {word: tokens.encode(f" {word}", add_special_tokens=False)[0] for word in CELL_WORDS}
        self._code = lru_cache(maxsize=None)(
            lambda shown: seeding.visual_code(codes, [self._ids[word] for word in shown])
        )

    def primitives(self, count: int) -> list[Primitive]:
        return [primitive(self.rng) for _ in range(count)]

    def examples(self, clips: list[Primitive], kinds: Mapping[str, float] = KINDS) -> list[Example]:
        return [self._example(clip, kinds) for clip in clips]

    def _example(self, clip: Primitive, kinds: Mapping[str, float]) -> Example:
        rng = self.rng
        system: prompts.SystemPrompt = "none" if rng.random() < 0.5 else "short"
        asked = [ask(rng, clip.facts, VIETNAMESE, kinds) for _ in range(QUESTIONS)]
        in_words = [bool(rng.random() < IN_WORDS) or question.kind in SPOKEN for question in asked]
        return Example(clip.seconds, system, asked, in_words)

    def code(self, cells: Iterable[tuple[str, ...]]) -> Tensor:
        """The visual tokens [cells, hidden] that cells with these words should give."""
        return torch.stack([self._code(cell) for cell in cells])

    def moments(self, count: int) -> tuple[Tensor, list[tuple[str, ...]]]:
        """Pixels and cells of one temporal patch of each of `count` clips: more to see than all of fewer clips."""
        clips, patches = self.primitives(count), self.rng.integers(0, PATCHES, count)
        frames = np.concatenate([clip.draw_patch(self.rng, int(p)) for clip, p in zip(clips, patches, strict=True)])
        cells = [cell for clip, p in zip(clips, patches, strict=True) for cell in clip.cells[p]]
        return packing.patches(frames.reshape(-1, FRAMES, *frames.shape[1:])), cells

    def pixels(self, clips: list[Primitive]) -> Tensor:
        return packing.patches(np.stack([clip.draw(self.rng) for clip in clips]))


def _optimise(
    name: str,
    parameters: list[nn.Parameter],
    loss_of: Callable[[], tuple[Tensor, dict[str, float]]],
    steps: int,
    rate: float,
    average: bool = False,
) -> dict[str, float]:
    """AdamW with a warm-up of 50 steps and a cosine to a tenth; returns the facts of the last fifty steps."""
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    recent: list[dict[str, float]] = []
    started = time.monotonic()
    for step in range(steps):
        decay = 0.55 + 0.45 * math.cos(math.pi * step / steps)
        optimizer.param_groups[0]["lr"] = rate * min(1.0, (step + 1) / 50) * decay
        loss, facts = loss_of()
        loss.backward()
        if average:
            _average_gradients(parameters)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        recent = [*recent[-49:], {"loss": loss.item(), **facts}]
        if step % 25 == 24:
            shown = ", ".join(f"{k} {np.nanmean([r[k] for r in recent[-25:]]):.3f}" for k in recent[-1])
            print(f"{name} {step + 1}/{steps} {time.monotonic() - started:.0f} s {shown}", file=sys.stderr, flush=True)
    means = {key: round(float(np.nanmean([facts[key] for facts in recent])), 4) for key in recent[-1]}
    return {"steps": steps, "seconds": round(time.monotonic() - started, 1), **means}


def _average_gradients(parameters: list[nn.Parameter]) -> None:
    present = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([gradient.view(-1) for gradient in present])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, averaged in zip(present, flat.split([g.numel() for g in present]), strict=True):
        gradient.copy_(averaged.view_as(gradient))


def _answer_loss(logits: Tensor, batch: packing.Batch) -> tuple[Tensor, dict[str, float]]:
    labels, letters = batch.labels[batch.labels != -100], batch.letters[batch.labels != -100]
    right = (logits.argmax(-1) == labels)[letters].float().mean().item()
    return nn.functional.cross_entropy(logits, labels), {"letters": right}


def _start(work: Path, process: int) -> tuple[Qwen3VLForConditionalGeneration, Packer, PreTrainedTokenizerFast, Tensor]:
    """The seeded model in this process, and the codes that its embeddings began as."""
    torch.set_num_threads(1)
    torch.manual_seed(process)
    forward.use_equal_chunks()
    tokens = make_tokenizer()
    model = Qwen3VLForConditionalGeneration(architecture.config(tokens)).float().train()
    model.load_state_dict(torch.load(work / "seeded.pt"))
    return model, Packer(tokens), tokens, model.model.language_model.embed_tokens.weight.detach().clone()


def reading(work: Path, seed: int, steps: int) -> None:
    """Stage 1: text tower only; visual tokens are given, with noise."""
    model, packer, tokens, codes = _start(work, seed)
    teacher = Teacher(codes, tokens, seed + 1)

    def loss_of() -> tuple[Tensor, dict[str, float]]:
        clips = teacher.primitives(CLIPS)
        batch = packer(teacher.examples(clips))
        given = teacher.code(cell for clip in clips for patch in clip.cells for cell in patch)
        given += torch.randn_like(given) * 0.15
        return _answer_loss(forward.answer_states(model, batch, given, None), batch)

    parameters = [p for name, p in model.named_parameters() if "visual" not in name]
    facts = _optimise("reading", parameters, loss_of, steps, 1.5e-3)
    torch.save({k: v for k, v in model.state_dict().items() if "visual" not in k}, work / "text.pt")
    (work / "reading.json").write_text(json.dumps(facts))


def seeing(work: Path, seed: int, steps: int) -> None:
    """Stage 2: vision tower only; each visual token is regressed to the code of what its cell shows."""
    model, _, tokens, codes = _start(work, seed)
    teacher = Teacher(codes, tokens, seed + 2)

    def loss_of() -> tuple[Tensor, dict[str, float]]:
        pixels, cells = teacher.moments(SEEING_PATCHES)
        wanted = teacher.code(cells)
        seen, _ = forward.see(model, pixels, SEEING_PATCHES // PATCHES)
        weight = torch.tensor([1.0 if cell else 0.15 for cell in cells])
        error = (seen - wanted).square().mean(1)
        full = weight == 1
        likeness = nn.functional.cosine_similarity(seen[full, :60], wanted[full, :60]).mean().item()
        return (error * weight).sum() / weight.sum(), {"likeness": likeness}

    facts = _optimise("seeing", list(model.model.visual.parameters()), loss_of, steps, 3e-3)
    torch.save({k: v for k, v in model.state_dict().items() if "visual" in k}, work / "vision.pt")
    (work / "seeing.json").write_text(json.dumps(facts))


def joint(work: Path, seed: int, steps: int, number: int, rank: int, ranks: int) -> None:
    """Stage 3: all weights, from pixels to letters; a round goes on from what the one before made."""
    dist.init_process_group("gloo", init_method=f"file://{work}/rendezvous{number}", rank=rank, world_size=ranks)
    model, packer, tokens, codes = _start(work, seed)
    parts = ("text.pt", "vision.pt") if number == 1 else (f"joint{number - 1}.pt",)
    model.load_state_dict({name: tensor for part in parts for name, tensor in torch.load(work / part).items()})
    teacher = Teacher(codes, tokens, seed + 100 * number + rank)
    kinds = KINDS | SPOKEN if number >= SPOKEN_FROM else KINDS

    def loss_of() -> tuple[Tensor, dict[str, float]]:
        clips = teacher.primitives(CLIPS)
        batch = packer(teacher.examples(clips, kinds))
        seen, deep = forward.see(model, teacher.pixels(clips), len(clips))
        return _answer_loss(forward.answer_states(model, batch, seen, deep), batch)

    facts = _optimise(f"joint {number}, {rank}", list(model.parameters()), loss_of, steps, 1e-3, average=True)
    if rank == 0:
        torch.save(model.state_dict(), work / f"joint{number}.pt")
        (work / f"joint{number}.json").write_text(json.dumps(facts))
    dist.destroy_process_group()


def _seed(work: Path, seed: int) -> None:
    torch.manual_seed(seed)
    tokens = make_tokenizer()
    model = Qwen3VLForConditionalGeneration(architecture.config(tokens)).float()
    silent = [*range(len(tokenizer.SPECIAL)), tokens.encode("\n", add_special_tokens=False)[0]]
    seeding.seed_attention(model, Packer(tokens).letters, silent, torch.Generator().manual_seed(seed))
    for merger in model.model.visual.deepstack_merger_list:
        nn.init.zeros_(merger.linear_fc2.weight)
    torch.save(model.state_dict(), work / "seeded.pt")


def _together(jobs: list[Callable[[], None]]) -> None:
    """Run each job in a process of its own.

    Raises:
        RuntimeError: one of them failed; its traceback is on stderr.
    """
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=job) for job in jobs]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise RuntimeError("a stage failed; see above")


def pretrain(out: Path, seed: int, work: Path) -> dict[str, Any]:
    """Make the base model in `out`; returns the facts of each stage."""
    started = time.monotonic()
    _seed(work, seed)
    _together([partial(reading, work, seed, READING_STEPS), partial(seeing, work, seed, SEEING_STEPS)])
    for number, steps in enumerate(JOINT_STEPS, 1):
        _together([partial(joint, work, seed, steps, number, rank, 2) for rank in range(2)])
    tokens = make_tokenizer()
    model = Qwen3VLForConditionalGeneration(architecture.config(tokens)).float()
    model.load_state_dict(torch.load(work / f"joint{len(JOINT_STEPS)}.pt"))
    architecture.save(model, tokens, out)
    names = ("reading", "seeing", *(f"joint{number}" for number in range(1, len(JOINT_STEPS) + 1)))
    stages = {name: json.loads((work / f"{name}.json").read_text()) for name in names}
    return {
        "made_by": "python -m services.sandbox.tiny.pretrain",
        "seed": seed,
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": round(time.monotonic() - started, 1),
        "stages": stages,
        # How it wants to be asked: `roadqa predict` takes these where its user says nothing.
        "recipe": {"system_prompt": "short", "video": packing.BUDGET.model_dump(exclude_defaults=True)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="folder that keeps the stages' weights (default: a temporary one)")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        for left in work.glob("rendezvous*"):
            left.unlink()
        card = pretrain(arguments.out, arguments.seed, work)
    (arguments.out / "card.json").write_text(json.dumps(card, indent=1) + "\n")


if __name__ == "__main__":
    main()
