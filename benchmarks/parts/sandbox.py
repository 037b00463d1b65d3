"""The sandbox's drawn scenes as a rows artifact, without a store."""

import shutil
from pathlib import Path

from services.sandbox import clips as scenes
from shared.contracts import TrainRecipe
from shared.formats import roadbuddy
from shared.schema import Rows, write_rows
from shared.video import sample

PER_RECORDING = 2  # clips


def rows(folder: Path, clips: int, questions_per_clip: int = 8) -> Path:
    """Draw `clips` clips and their questions into `folder`; returns the artifact's folder."""
    return drawn(folder, "train", clips // PER_RECORDING, PER_RECORDING, questions_per_clip, seed=1)


def drawn(
    folder: Path, split: str, recordings: int, clips_per_recording: int, questions_per_clip: int, seed: int
) -> Path:
    """Draw scenes and their answered questions into `folder`; returns the artifact's folder."""
    pictures, out = folder / "drawn", folder / "rows"
    questions = scenes.draw(
        pictures,
        seed=seed,
        recordings=recordings,
        clips_per_recording=clips_per_recording,
        questions_per_clip=questions_per_clip,
        split=split,
    )
    imported = roadbuddy.read(questions, pictures, thorough=False)
    (out / "clips").mkdir(parents=True)
    for digest, path in imported.paths.items():
        shutil.copyfile(path, out / "clips" / digest)
    write_rows(out, imported.questions, imported.clips)
    return out


def row_tokens(folder: Path, model: Path, recipe: TrainRecipe) -> int:
    """Tokens of the first row as the trainer encodes it."""
    from shared.vlm.encode import Encoder  # torch: not every environment has it

    found = Rows([folder])
    question = found.questions[0]
    clip = sample(found.clip_path(question.clip), recipe.video)
    return int(Encoder(model).encode(question, clip, recipe.system_prompt, with_answer=True)["input_ids"].shape[1])
