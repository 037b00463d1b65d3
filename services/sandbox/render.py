"""A scene as pictures: where everything stands at an instant, pasted on a background drawn once."""

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
from PIL import Image

from services.sandbox import draw, words
from services.sandbox.scene import FPS, Camera, Person, Scene, Vehicle

#: The lead car's waiting place: column, row of its wheels, width.
_EGO_LEAD: Final = (240.0, 186.0, 92.0)
_EGO_LEAVES: Final = 2.6  #: seconds
_TOP_LEAD: Final = (217.0, 222.0)
_TOP_LENGTH: Final = 60
_TOP_SPEED: Final = 140.0  #: pixels per second


class Placed(NamedTuple):
    """A sprite with its middle at (x, y)."""

    sprite: Image.Image
    x: float
    y: float


def render(scene: Scene) -> Iterator[np.ndarray]:
    """The scene's frames, each [256, 384, 3] uint8 RGB, at FPS."""
    empty = ground(scene.camera, scene.style)
    for index in range(scene.frames):
        canvas = empty.copy()
        t = index / FPS
        for placed in [*road_users(scene, t), *_signals(scene, t, canvas)]:
            draw.paste(canvas, *placed)
        yield draw.pixels(canvas)


def ground(camera: Camera, style: draw.Style) -> Image.Image:
    """The empty road, as this camera sees it."""
    if camera.view == "ego":
        return draw.ego_road(style, zebra=camera.zebra, lanes=camera.lanes)
    return draw.crossroads(style, zebra=camera.zebra)


def road_users(scene: Scene, t: float) -> list[Placed]:
    """Cars and people at `t` seconds, the nearest last."""
    people = [_person(scene, person, t) for person in scene.people if person.in_view(t)]
    if scene.camera.view == "ego":
        cars = [_ego_car(vehicle, t) for vehicle in scene.vehicles]
        return sorted([*cars, *people], key=lambda placed: placed.y + placed.sprite.height / 2)
    return [*(_top_car(vehicle, t) for vehicle in scene.vehicles), *people]


def lamp_centre(scene: Scene, state: str) -> tuple[int, int]:
    """Column and row of the middle of the light's lamp for `state`."""
    x, y = _light_place(scene)
    lamp = scene.camera.lamp
    return x, y + (words.LIGHTS.index(state) - 1) * (lamp + lamp // 5)


def _light_place(scene: Scene) -> tuple[int, int]:
    x, y = (338, 60) if scene.camera.view == "ego" else (322, 46)
    return x + scene.camera.dx, y + scene.camera.dy


def _signals(scene: Scene, t: float, canvas: Image.Image) -> Iterator[Placed]:
    camera, ego = scene.camera, scene.camera.view == "ego"
    foot = 190 if ego else 94
    if scene.sign is not None:
        x, y = (54 if ego else 66) + camera.dx, (58 if ego else 46) + camera.dy
        draw.post(canvas, x, y, foot, scene.style.light)
        make = draw.speed_sign if scene.sign in words.SPEEDS else draw.road_sign
        yield Placed(make(scene.sign, camera.sign_size), x, y)
    if scene.light is not None:
        x, y = _light_place(scene)
        draw.post(canvas, x, y, foot, scene.style.light)
        yield Placed(draw.traffic_light(scene.light.at(t), camera.lamp), x, y)


def _person(scene: Scene, person: Person, t: float) -> Placed:
    x, foot = person.x(t), 222 if scene.camera.view == "ego" else 92
    return Placed(draw.person(person.coat, person.height, int(t * 6) % 4), x, foot - person.height / 2)


def _ego_car(vehicle: Vehicle, t: float) -> Placed:
    if vehicle.slot != "lead":
        facing, x = ("right", 54 + 3 * t) if vehicle.slot == "left" else ("left", 342 - 3 * t)
        sprite = draw.car_side(vehicle.colour, 96, facing)
        return Placed(sprite, x, 166 - sprite.height / 2)
    x, foot, width = _EGO_LEAD
    done = min(1.0, max(0.0, (t - vehicle.go) / _EGO_LEAVES))
    braking = t < vehicle.go
    if vehicle.move == "straight":
        x, foot, width = x - 40 * done, foot - 60 * done, width - 54 * done
    elif vehicle.move == "stops":
        left = max(0.0, 1 - t / vehicle.go)
        x, foot, width, braking = x + 12 * left, foot + 62 * left, width + 36 * left, left < 0.25
    elif vehicle.move == "stands":
        braking = True
    elif done > 0.12:
        way = -1 if vehicle.move == "left" else 1
        sprite = draw.car_side(vehicle.colour, 112, vehicle.move)
        return Placed(sprite, x + way * 300 * done, (172 if way < 0 else 180) - sprite.height / 2)
    sprite = draw.car_rear(vehicle.colour, round(width), braking)
    return Placed(sprite, x, foot - sprite.height / 2)


def _top_car(vehicle: Vehicle, t: float) -> Placed:
    if vehicle.slot != "lead":
        east = vehicle.slot == "left"
        x = 64 + 3 * t if east else 320 - 3 * t
        sprite = draw.car_above(vehicle.colour, 0 if east else 180, _TOP_LENGTH)
        return Placed(sprite, x, draw.CROSS_Y + (22 if east else -22))
    x, y, heading = _top_path(vehicle, t)
    return Placed(draw.car_above(vehicle.colour, round(heading / 5) * 5, _TOP_LENGTH), x, y)


def _top_path(vehicle: Vehicle, t: float) -> tuple[float, float, float]:
    """Column, row and heading (degrees) of the lead car from above."""
    x, y = _TOP_LEAD
    if vehicle.move == "stands":
        return x, y, 90.0
    if vehicle.move == "stops":
        return x, y + 34 * max(0.0, 1 - t / vehicle.go), 90.0
    gone = _TOP_SPEED * max(0.0, t - vehicle.go)
    if vehicle.move == "straight":
        return x, y - gone, 90.0
    way, radius = (1, 44.0) if vehicle.move == "left" else (-1, 24.0)
    lane = draw.CROSS_Y - 22 * way  # row of the lane it turns into
    ahead = y - (lane + radius)
    if gone <= ahead:
        return x, y - gone, 90.0
    turned = min(np.pi / 2, (gone - ahead) / radius)
    rest = gone - ahead - turned * radius
    across = radius * (1 - np.cos(turned)) + rest
    return x - way * across, lane + radius * (1 - np.sin(turned)), 90.0 + way * float(np.degrees(turned))
