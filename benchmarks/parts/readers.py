"""One reader of clips in a process of its own: `python readers.py LIBRARY`, a JSON line in, a JSON line out.

In: `{"clip", "instants", "indices", "size": [w, h], "threads", "option", "at_once", "keep"}`. Out: `{"seconds",
"cpu"}`, wall and processor time of a clip; `keep` is a file for the frames (`.npy`, [T, H, W, 3] uint8). Runs in the
benchmark's own environment, so that nothing of the project is imported but by the project's reader.

Several clips at once are read by as many threads; the project's reader has a process for each core instead
(`shared.decoders`), started, as the libraries are imported, before anything is timed.
"""

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

Read = Callable[[dict[str, Any]], Any]


class Reader:
    """A library that reads one clip in this process, and several in threads of it."""

    def __init__(self, one: Read) -> None:
        self.one = one

    def several(self, job: dict[str, Any]) -> None:
        """The clip `at_once` times over."""
        with ThreadPoolExecutor(job["at_once"]) as pool:
            list(pool.map(self.one, [job] * job["at_once"]))

    def cpu(self) -> float:
        """Seconds of processor time so far."""
        return time.process_time()


class RoadQA(Reader):
    def __init__(self) -> None:
        import psutil

        from shared.decoders import Decoders

        super().__init__(self._sample)
        self._decoders = Decoders()
        self._decoders.start()
        #: The clocks of their processor time: MAKE_PROCESS_CPUCLOCK in <linux/posix-timers.h>.
        self._clocks = [(~each.pid << 3) | 2 for each in psutil.Process().children()]

    def _sample(self, job: dict[str, Any]) -> np.ndarray:
        from shared.video import sample

        return sample(*_clip(job), threads=job["threads"]).frames

    def several(self, job: dict[str, Any]) -> None:
        for coming in [self._decoders.submit(*_clip(job)) for _ in range(job["at_once"])]:
            coming.result()

    def cpu(self) -> float:
        return super().cpu() + sum(map(time.clock_gettime, self._clocks))


def _clip(job: dict[str, Any]) -> tuple[Any, Any]:
    from pathlib import Path

    from shared.budget import VideoBudget

    return Path(job["clip"]), VideoBudget(**job["budget"])


def opencv() -> Read:
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


def decord() -> Read:
    from decord import VideoReader, cpu

    def read(job: dict[str, Any]) -> np.ndarray:
        width, height = job["size"]
        reader = VideoReader(job["clip"], ctx=cpu(0), width=width, height=height, num_threads=job["threads"])
        frames: np.ndarray = reader.get_batch(job["indices"]).asnumpy()
        return frames

    return read


def torchcodec() -> Read:
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
    libraries = {"opencv": opencv, "decord": decord, "torchcodec": torchcodec}
    reader = RoadQA() if sys.argv[1] == "roadqa" else Reader(libraries[sys.argv[1]]())
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        try:
            if job.get("keep"):
                np.save(job["keep"], reader.one(job))
            started, worked = time.perf_counter(), reader.cpu()
            if job["at_once"] == 1:
                reader.one(job)
            else:
                reader.several(job)
            answer = {
                "seconds": (time.perf_counter() - started) / job["at_once"],
                "cpu": (reader.cpu() - worked) / job["at_once"],
            }
        except Exception as error:  # noqa: BLE001 -- whatever a library throws is its answer
            answer = {"failed": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
