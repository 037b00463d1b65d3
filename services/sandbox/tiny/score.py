"""Scores a model on sandbox questions the stock way: processor and model from disk, one question at a time.

`python -m services.sandbox.tiny.score MODEL DATASET`, where DATASET is a folder that
`services.sandbox.clips.draw` wrote. Prints accuracy for each category, with n; with the choices
shuffled afresh, and with the clip blanked, as controls.
"""

import argparse
import json
import random
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel, ProcessorMixin
from transformers.video_utils import VideoMetadata

from services.sandbox.clips import scene_of
from services.sandbox.questions import truth
from services.sandbox.tiny.packing import BUDGET
from shared import prompts
from shared.schema import Choice, Origin, Question
from shared.video import SampledClip, sample


class Row(NamedTuple):
    question: Question
    clip: SampledClip


def rows(folder: Path) -> list[Row]:
    """The questions of a drawn data set; the answers come from the clips' own metadata."""
    found, clips = [], {}
    for row in json.loads((folder / "questions.json").read_text(encoding="utf-8"))["data"]:
        path = folder / row["video_path"]
        if path not in clips:
            clips[path] = sample(path, BUDGET)
        texts = [choice.split(". ", 1)[1] for choice in row["choices"]]
        question = Question(
            id=row["id"],
            clip="0" * 64,
            text=row["question"],
            choices=tuple(Choice(label=prompts.letter(i), text=text) for i, text in enumerate(texts)),
            answer=truth(scene_of(path), row["question"], texts),
            category=row["type"],
            language=row["language"],
            origin=Origin(answer="human"),
        )
        found.append(Row(question, clips[path]))
    return found


def shuffled(question: Question, lot: random.Random) -> Question:
    """The same question, its choices in another order."""
    order = lot.sample(range(len(question.choices)), len(question.choices))
    assert question.answer is not None
    choices = tuple(question.choices[i] for i in order)
    return question.model_copy(update={"choices": choices, "answer": order.index(question.answer)})


@torch.no_grad()
def choose(model: PreTrainedModel, processor: ProcessorMixin, row: Row, system_prompt: prompts.SystemPrompt) -> int:
    """Index of the choice whose letter is likeliest."""
    user = [{"type": "video"}, {"type": "text", "text": prompts.render(row.question)}]
    system = prompts.system_text(system_prompt)
    turns = [{"role": "user", "content": user}]
    if system is not None:
        turns.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
    clip = row.clip
    metadata = VideoMetadata(
        total_num_frames=round(clip.seconds * clip.fps), fps=clip.fps, frames_indices=list(clip.indices)
    )
    batch = processor(
        text=[processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)],
        videos=[clip.frames.transpose(0, 3, 1, 2)],
        video_metadata=[metadata],
        do_sample_frames=False,
        return_tensors="pt",
    )
    letters = [processor.tokenizer.convert_tokens_to_ids(prompts.letter(i)) for i in range(len(row.question.choices))]
    return int(model(**batch).logits[0, -1, letters].argmax())


def score(folder: Path, asked: list[Row], system_prompt: prompts.SystemPrompt) -> dict[str, tuple[float, int]]:
    """(accuracy, n) for all questions, each category and each language."""
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    right: dict[str, list[bool]] = defaultdict(list)
    for row in asked:
        hit = choose(model, processor, row, system_prompt) == row.question.answer
        for name in ("all", row.question.category, row.question.language):
            right[name].append(hit)
    return {name: (round(float(np.mean(hits)), 3), len(hits)) for name, hits in right.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("dataset", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    asked = rows(arguments.dataset)
    lot = random.Random(0)
    blank = [row._replace(clip=row.clip._replace(frames=np.full_like(row.clip.frames, 128))) for row in asked]
    mixed = [row._replace(question=shuffled(row.question, lot)) for row in asked]
    print(json.dumps({"chance": round(float(np.mean([1 / len(row.question.choices) for row in asked])), 3)}))
    for name, some in (("short", asked), ("shuffled", mixed), ("blank clip", blank)):
        print(json.dumps({name: score(arguments.model, some, "short")}), flush=True)
    print(json.dumps({"no system prompt": score(arguments.model, asked, "none")}))


if __name__ == "__main__":
    main()
