"""How the served model sees a clip: by the video contract, as in training and in bulk.

Imported in the server's process, this takes the place of vLLM's own loader of clips for Qwen3-VL. Whatever client sends
one, its frames are sampled and sized by `shared.video`, within that module's limits on what a clip may cost, and in
processes of their own (`shared.decoders`): a clip that takes its decoder down does not take the server down.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from vllm.exceptions import VLLMValidationError
from vllm.multimodal.video import VIDEO_LOADER_REGISTRY, VideoLoader

from shared.budget import VideoBudget
from shared.decoders import decoders
from shared.errors import MediaError
from shared.video import SampledClip
from shared.vlm.encode import metadata

LOADER = "roadqa"  #: what vLLM knows it by
#: Of no use to a clip; refuses pictures that call themselves one (`data:video/jpeg`), which nobody samples or sizes.
PICTURES = {"num_frames": 0}


def io_options(video: VideoBudget) -> dict[str, Any]:
    """vLLM's `media_io_kwargs` for clips under this budget."""
    return {"video": {"video_backend": LOADER, **PICTURES, **video.model_dump()}}


def told(clip: SampledClip) -> dict[str, Any]:
    """What vLLM is told of frames that are final: where they stand in their source."""
    about = metadata(clip)
    return {name: about[name] for name in about} | {"video_backend": "opencv", "do_sample_frames": False}


@VIDEO_LOADER_REGISTRY.register(LOADER, video_processor="Qwen3VLVideoProcessor")
class ContractLoader(VideoLoader):
    """Clips by `shared.video.sample`; the budget comes with vLLM's `media_io_kwargs`."""

    @classmethod
    def load_bytes(cls, data: bytes, num_frames: int = 0, **budget: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Frames [T, H, W, 3] uint8 and what vLLM is told of them.

        Raises:
            VLLMValidationError: the clip is refused; the client is told why.
        """
        video = VideoBudget.model_validate(budget)
        with tempfile.NamedTemporaryFile(prefix="clip-") as file:
            file.write(data)
            file.flush()
            path = Path(file.name)
            try:
                clip = decoders().submit(path, video).result()
            except MediaError as error:
                raise VLLMValidationError(f"the clip {_reason(error, path)}", parameter="video_url") from error
        return clip.frames, told(clip)


def _reason(error: MediaError, path: Path) -> str:
    """What is wrong, without this machine's path."""
    return str(error).removeprefix(f"{path}: ")
