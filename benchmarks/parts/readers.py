"""One reader of clips in a process of its own: `python readers.py LIBRARY`, a JSON line in, a JSON line out.

In: `{"clip", "instants", "indices", "size": [w, h], "threads", "option", "at_once", "keep"}`. Out: `{"seconds",
"cpu"}`, wall and processor time of a clip; `keep` is a file for the frames (`.npy`, [T, H, W, 3] uint8). Runs in the
benchmark's own environment, so that nothing of the project is imported but by the project's reader.
"""

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

Reader = Callable[[dict[str, Any]], Any]


def roadqa() -> Reader:
    from pathlib import Path

    from shared.budget import VideoBudget
    from shared.video import sample

    return lambda job: sample(Path(job["clip"]), VideoBudget(**job["budget"]), threads=job["threads"]).frames


def opencv() -> Reader:
    import cv2

    def read(job: dict[str, Any]) -> np.ndarray:
        capture = cv2.VideoCapture(
            job["clip"], cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, job["threads"]] if job["threads"] else []
        )
        wanted, at, frames = job["indices"], -1, []
        for index in wanted:
            while at < index:
                if not capture.grab():
                    raise RuntimeError(f"ends at frame {at}")
                at += 1
            whole, picture = capture.retrieve()
            if not whole:
                raise RuntimeError(f"frame {index} cannot be read")
            small = cv2.resize(picture, job["size"], interpolation=cv2.INTER_AREA)
            frames.append(cv2.cvtColor(small, cv2.COLOR_BGR2RGB))
        return np.stack(frames)

    return read


def decord() -> Reader:
    from decord import VideoReader, cpu

    def read(job: dict[str, Any]) -> np.ndarray:
        width, height = job["size"]
        reader = VideoReader(job["clip"], ctx=cpu(0), width=width, height=height, num_threads=job["threads"])
        frames: np.ndarray = reader.get_batch(job["indices"]).asnumpy()
        return frames

    return read


def torchcodec() -> Reader:
    from torchcodec.decoders import VideoDecoder
    from torchcodec.transforms import Resize

    def read(job: dict[str, Any]) -> Any:
        decoder = VideoDecoder(
            job["clip"],
            dimension_order="NHWC",
            num_ffmpeg_threads=job["threads"],
            seek_mode=job["option"],
            transforms=[Resize(job["size"][::-1])],
        )
        start = decoder.metadata.begin_stream_seconds or 0.0
        if job["option"] == "exact":
            return decoder.get_frames_at(job["indices"]).data.numpy()
        return decoder.get_frames_played_at([start + instant for instant in job["instants"]]).data.numpy()

    return read


def main() -> None:
    """Answer jobs until stdin ends."""
    read = {"roadqa": roadqa, "opencv": opencv, "decord": decord, "torchcodec": torchcodec}[sys.argv[1]]()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        try:
            if job.get("keep"):
                np.save(job["keep"], read(job))
            started, worked = time.perf_counter(), time.process_time()
            if job["at_once"] == 1:
                read(job)
            else:
                with ThreadPoolExecutor(job["at_once"]) as pool:
                    list(pool.map(read, [job] * job["at_once"]))
            answer = {
                "seconds": (time.perf_counter() - started) / job["at_once"],
                "cpu": (time.process_time() - worked) / job["at_once"],
            }
        except Exception as error:  # noqa: BLE001 -- whatever a library throws is its answer
            answer = {"failed": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
