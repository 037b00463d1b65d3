"""Real clips: old codecs, B-frames without display times, odd time bases."""

from pathlib import Path

import numpy as np
import pytest

from shared.budget import VideoBudget, sample_times, visual_tokens
from shared.video import probe, sample

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "real"
CLIPS = [
    ("train/videos/highway_day_0001.mp4", 960, 540, 25.0, 8.84, 221, "h264"),
    ("train/videos/overhead_arrows_0001.avi", 640, 360, 30.0, 12.467, 374, "msmpeg4v2"),
    ("train/videos/carpark_topdown_0001.mp4", 768, 432, 12.5, 30.16, 377, "h264"),
    ("public_test/videos/highway_cctv_0001.avi", 320, 240, 25.0, 30.0, 750, "mpeg4"),
    ("public_test/videos/suburb_fixed_0001.mp4", 640, 352, 24.004, 27.537, 661, "h264"),
]


@pytest.mark.parametrize(("name", "width", "height", "fps", "seconds", "frames", "codec"), CLIPS)
def test_real_clips_sample_right(
    name: str, width: int, height: int, fps: float, seconds: float, frames: int, codec: str
) -> None:
    if not REAL.is_dir():
        pytest.skip(f"{REAL} is not here")
    found = probe(REAL / name, thorough=True)
    assert found[:6] == (pytest.approx(seconds, abs=0.01), pytest.approx(fps, abs=0.01), width, height, codec, frames)
    assert (found.rotation, found.variable) == (0, False)
    budget = VideoBudget(fps=2)
    clip = sample(REAL / name, budget)
    wanted = sample_times(clip.seconds, budget)
    assert len(clip.frames) == len(clip.indices) == len(wanted)
    assert list(clip.indices) == sorted(set(clip.indices))
    late = np.array(wanted) - np.array(clip.indices) / clip.fps
    assert late.min() >= -0.5 / clip.fps  # an index is rounded to the average rate
    assert late.max() <= 1.5 / clip.fps
    assert visual_tokens(clip.frames.shape[2], clip.frames.shape[1], len(wanted)) <= budget.tokens_per_clip
