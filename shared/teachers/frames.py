"""A clip as pictures, for a server that takes no video."""

import base64
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from shared.budget import VideoBudget
from shared.contracts import TeacherRecipe
from shared.video import sample

MAX_FRAMES = 128  #: of one request; a longer clip is sampled more thinly
_CELLS = {"low": 192, "default": 768, "medium": 768, "high": 3072}  #: of 32×32 pixels, at most, of one frame
_QUALITY = 3  #: of the JPEG encoder: 2 is the best, 31 the worst


def frames(clip: Path, teacher: TeacherRecipe) -> list[str]:
    """Data URLs of the clip's frames as JPEG, evenly over its length, in order of time.

    Raises:
        MediaError: no clip that can be read.
    """
    cells = _CELLS[teacher.media_resolution]
    budget = VideoBudget(
        fps=teacher.fps, tokens_per_patch=cells, tokens_per_clip=cells * MAX_FRAMES, max_frames=MAX_FRAMES
    )
    return [
        f"data:image/jpeg;base64,{base64.b64encode(_jpeg(pixels)).decode()}" for pixels in sample(clip, budget).frames
    ]


def _jpeg(pixels: np.ndarray) -> bytes:
    """`pixels`: [H, W, 3] uint8 RGB."""
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height = pixels.shape[1], pixels.shape[0]
    encoder.pix_fmt, encoder.time_base = "yuvj420p", Fraction(1, 1)
    encoder.qmin = encoder.qmax = _QUALITY
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuvj420p")
    return b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])
