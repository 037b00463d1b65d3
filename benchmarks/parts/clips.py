"""Rows on clips as large as a dashcam's: the sandbox's scenes, drawn for eight seconds and enlarged to 1280×720."""

import hashlib
from pathlib import Path

import av
from PIL import Image

from services.sandbox import scene as scenes
from services.sandbox.questions import questions
from services.sandbox.render import render
from shared.prompts import letter
from shared.schema import Choice, Clip, Origin, Question, write_rows
from shared.video import probe

WIDTH, HEIGHT, SECONDS, RATE = 1280, 720, 8, 10
RECORDINGS, QUESTIONS = 4, 4  # questions of each clip; a clip of each recording


def write(folder: Path) -> Path:
    """A rows artifact in `folder`."""
    (folder / "clips").mkdir(parents=True)
    clips: dict[str, Clip] = {}
    rows: list[Question] = []
    for index in range(RECORDINGS):
        (scene,) = scenes.recording(0, "benchmark", index, 1)
        clip = _clip(scene, folder)
        clips[clip.digest] = clip
        for number, asked in enumerate(questions(scene, "en")[:QUESTIONS]):
            choices = tuple(Choice(label=letter(i), text=text) for i, text in enumerate(asked.choices))
            rows.append(
                Question(
                    id=f"{index}-{number}",
                    clip=clip.digest,
                    text=asked.text,
                    choices=choices,
                    answer=asked.answer,
                    origin=Origin(answer="human"),
                )
            )
    write_rows(folder, rows, clips)
    return folder


def _clip(scene: scenes.Scene, folder: Path) -> Clip:
    path = folder / "new.mp4"
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        pictures = list(render(scene))
        for number in range(SECONDS * RATE):
            large = Image.fromarray(pictures[number % len(pictures)]).resize((WIDTH, HEIGHT))
            container.mux(stream.encode(av.VideoFrame.from_image(large)))
        container.mux(stream.encode())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    found = probe(path)
    path.rename(folder / "clips" / digest)
    return Clip(
        digest=digest,
        name=f"{scene.recording}.mp4",
        recording=scene.recording,
        size_bytes=(folder / "clips" / digest).stat().st_size,
        seconds=found.seconds,
        fps=found.fps,
        width=found.width,
        height=found.height,
        codec=found.codec,
    )
