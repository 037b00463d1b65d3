"""The video contract keeps its caps whatever the clip and the budget."""

from hypothesis import given
from hypothesis import strategies as st

from shared.budget import CELL, VideoBudget, clip_tokens, frame_size, sample_times, visual_tokens

budgets = st.builds(
    VideoBudget,
    fps=st.floats(0.1, 60),
    tokens_per_patch=st.integers(1, 4096),
    tokens_per_clip=st.integers(1, 100_000),
    max_frames=st.integers(2, 1024),
)
sides = st.integers(1, 10_000)


@given(st.floats(0.01, 7200), budgets)
def test_an_even_number_of_frames_within_the_cap_and_the_clip(seconds: float, budget: VideoBudget) -> None:
    times = sample_times(seconds, budget)
    assert len(times) % 2 == 0
    assert 2 <= len(times) <= budget.max_frames
    assert times == sorted(times)
    assert 0 <= times[0] <= times[-1] <= seconds


@given(sides, sides, st.integers(2, 1024), budgets)
def test_frames_never_cost_more_than_the_caps(width: int, height: int, frames: int, budget: VideoBudget) -> None:
    size = frame_size(width, height, frames, budget)
    patches = -(-frames // 2)
    tokens = visual_tokens(*size, frames)
    assert size[0] % CELL == size[1] % CELL == 0
    assert tokens <= patches * budget.tokens_per_patch
    assert tokens <= max(budget.tokens_per_clip, patches)  # a patch costs one token at the least


@given(sides, sides, st.integers(2, 64), budgets)
def test_small_clips_are_not_enlarged(width: int, height: int, frames: int, budget: VideoBudget) -> None:
    new_width, new_height = frame_size(width, height, frames, budget)
    assert new_width <= max(CELL, width + CELL / 2)
    assert new_height <= max(CELL, height + CELL / 2)


def test_a_clips_tokens_are_reckoned_by_the_video_contract() -> None:
    found = clip_tokens(10, 1280, 720, VideoBudget(fps=2, tokens_per_patch=20))
    assert found == (18, 10)  # 3 by 6 cells, two frames a patch
    assert found.total == 180
