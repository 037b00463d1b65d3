"""Drawn scenes: what the pictures show is what the scene says."""

from itertools import pairwise

import numpy as np
import pytest

from services.sandbox import draw, words
from services.sandbox.render import lamp_centre, render, road_users
from services.sandbox.scene import FPS, Scene, recording
from shared.budget import VideoBudget, sample_times

BUDGET = VideoBudget(fps=2, tokens_per_patch=6, max_frames=8)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [scene for index in range(40) for scene in recording(11, "train", index, 3)]


def _moments(scene: Scene) -> list[float]:
    """Seconds at which something begins."""
    moments = [scene.light.change] if scene.light and scene.light.change is not None else []
    moments += [person.steps_on(scene.camera.view) for person in scene.people[:1]]
    return sorted(moments + [car.go for car in scene.vehicles if car.move != "stands"])


def test_a_scene_is_the_same_for_the_same_seed() -> None:
    assert recording(4, "train", 2, 3) == recording(4, "train", 2, 3)
    first = recording(4, "train", 2, 1)[0]
    for one, other in zip(render(first), render(first), strict=True):
        np.testing.assert_array_equal(one, other)


def test_splits_share_no_scene() -> None:
    train = {scene.seed for index in range(50) for scene in recording(0, "train", index, 4)}
    test = {scene.seed for index in range(50) for scene in recording(0, "public_test", index, 4)}
    assert len(train) == len(test) == 200
    assert not train & test


def test_a_recording_shares_camera_and_style_but_not_its_events() -> None:
    scenes = recording(1, "train", 3, 5)
    assert len({scene.camera for scene in scenes}) == len({scene.style for scene in scenes}) == 1
    assert len({scene.model_dump_json(include={"light", "vehicles", "people"}) for scene in scenes}) > 1


def test_a_scene_survives_json(scenes: list[Scene]) -> None:
    assert [Scene.model_validate_json(scene.model_dump_json()) for scene in scenes] == scenes


def test_frames_have_the_promised_shape_and_number(scenes: list[Scene]) -> None:
    frames = list(render(scenes[0]))
    assert len(frames) == round(scenes[0].seconds * FPS)
    assert all(frame.shape == (256, 384, 3) and frame.dtype == np.uint8 for frame in frames)


def test_the_lit_lamp_is_the_brightest_in_every_frame(scenes: list[Scene]) -> None:
    for scene in [scene for scene in scenes if scene.light is not None][:12]:
        assert scene.light is not None
        for index, frame in enumerate(render(scene)):
            lamps = {state: frame[lamp_centre(scene, state)[::-1]].astype(int) for state in words.LIGHTS}
            lit = max(lamps, key=lambda state: int(lamps[state].max()))
            assert lit == scene.light.at(index / FPS)
            assert tuple(lamps[lit]) == draw.LIGHT_RGB[lit]


def test_events_are_a_second_apart_and_a_second_from_the_ends(scenes: list[Scene]) -> None:
    for scene in scenes:
        instants = [0.0, *_moments(scene), scene.seconds]
        assert all(after - before >= 1.0 for before, after in pairwise(instants))


def test_a_sampled_frame_falls_between_any_two_events(scenes: list[Scene]) -> None:
    for scene in scenes:
        instants = [0.0, *_moments(scene), scene.seconds]
        sampled = sample_times(scene.seconds, BUDGET)
        assert len(sampled) == 8
        assert all(any(a <= t < b for t in sampled) for a, b in pairwise(instants))


def test_every_road_user_is_in_view_in_two_sampled_frames(scenes: list[Scene]) -> None:
    for scene in scenes:
        sampled = sample_times(scene.seconds, BUDGET)
        assert all(sum(person.in_view(t) for t in sampled) >= 2 for person in scene.people)
        cars = [[road_users(scene.model_copy(update={"people": ()}), t)] for t in sampled[:2]]
        assert all(0 < placed.x < draw.WIDTH for (users,) in cars for placed in users)


def test_a_cars_path_ends_where_its_move_says(scenes: list[Scene]) -> None:
    for scene in [scene for scene in scenes if len(scene.vehicles) == 1]:
        alone = scene.model_copy(update={"people": ()})
        (first,), (last,) = road_users(alone, 0), road_users(alone, scene.seconds)
        move = scene.vehicles[0].move
        if move in ("left", "right"):
            assert (last.x < first.x - 60) if move == "left" else (last.x > first.x + 40)
        else:
            assert abs(last.x - first.x) < 45


@pytest.mark.parametrize("kind", words.SIGNS)
def test_signs_are_legible_at_a_quarter_of_the_size(kind: str) -> None:
    small = {other: np.asarray(draw.road_sign(other, 84).reduce(4).convert("RGB"), float) for other in words.SIGNS}
    assert small[kind].shape[:2] == (21, 21)
    assert all(np.abs(small[kind] - small[other]).mean() > 15 for other in words.SIGNS if other != kind)


def test_speed_signs_differ_at_a_quarter_of_the_size() -> None:
    small = [np.asarray(draw.speed_sign(number, 84).reduce(4).convert("L"), float) for number in words.SPEEDS]
    assert all(np.abs(a - b).max() > 90 for i, a in enumerate(small) for b in small[:i])
