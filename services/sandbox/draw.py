"""Drawing primitives: roads, lights, signs, vehicles and people, as PIL images 384×256 or sprites on it.

Sprites are RGBA, drawn four times larger and reduced, and cached. A model sees frames a quarter the
size (96×64), so sizes here are in drawn pixels: a lamp of 24 is 6 pixels there.
"""

import math
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

WIDTH: Final = 384
HEIGHT: Final = 256
HORIZON: Final = 112  #: row where the ego view's road begins
STREET: Final = (134.0, 178.0)  #: rows of the street that crosses in the ego view
ZEBRA: Final = (192.0, 226.0)  #: rows of the ego view's zebra crossing
_OVER: Final = 4  #: supersampling of sprites

RGB = tuple[int, int, int]

VEHICLE_RGB: Final[dict[str, RGB]] = {
    "red": (205, 30, 36),
    "yellow": (242, 200, 24),
    "green": (28, 145, 62),
    "blue": (36, 84, 205),
    "white": (242, 242, 240),
    "black": (24, 24, 28),
}
LIGHT_RGB: Final[dict[str, RGB]] = {"red": (255, 36, 30), "yellow": (255, 205, 20), "green": (30, 240, 90)}
COAT_RGB: Final[tuple[RGB, ...]] = ((225, 90, 40), (120, 60, 170), (20, 150, 170), (230, 205, 190))


class Style(NamedTuple):
    """The look that the clips of one recording share."""

    sky: RGB = (150, 190, 226)
    ground: RGB = (98, 128, 74)
    road: RGB = (92, 94, 98)
    marking: RGB = (226, 226, 220)
    skyline: RGB = (120, 126, 138)
    light: float = 1.0  #: brightness of the day: 1 at noon, about 0.5 at night; signs and lamps keep theirs
    grain: float = 4.0  #: standard deviation of the surface texture, in grey levels
    seed: int = 0


def _large(width: float, height: float) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGBA", (round(width * _OVER), round(height * _OVER)), (0, 0, 0, 0))
    return image, ImageDraw.Draw(image)


def _reduced(image: Image.Image) -> Image.Image:
    return image.resize((image.width // _OVER, image.height // _OVER), Image.Resampling.BOX)


def _shade(colour: RGB, factor: float) -> RGB:
    red, green, blue = (max(0, min(255, round(c * factor))) for c in colour)
    return red, green, blue


def paste(canvas: Image.Image, sprite: Image.Image, x: float, y: float) -> None:
    """Put `sprite` with its centre at (x, y); what falls outside the canvas is cut off."""
    canvas.paste(sprite, (round(x - sprite.width / 2), round(y - sprite.height / 2)), sprite)


def pixels(canvas: Image.Image) -> np.ndarray:
    """The canvas as an array [256, 384, 3] uint8, RGB."""
    return np.asarray(canvas.convert("RGB"))


# --- grounds -----------------------------------------------------------------------------------


def _textured(canvas: Image.Image, style: Style) -> Image.Image:
    rng = np.random.default_rng(style.seed)
    grain = rng.normal(0, style.grain, (HEIGHT, WIDTH, 1)) + rng.normal(0, style.grain / 3, (HEIGHT, WIDTH, 3))
    lit = np.asarray(canvas.convert("RGB"), dtype=np.float32) * style.light + grain
    return Image.fromarray(lit.clip(0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.6))


def _skyline(pen: ImageDraw.ImageDraw, style: Style, rng: np.random.Generator) -> None:
    x = -20
    while x < WIDTH:
        width, height = int(rng.integers(24, 70)), int(rng.integers(8, 46))
        tint = _shade(style.skyline, float(rng.uniform(0.85, 1.15)))
        if rng.random() < 0.35:  # a tree
            pen.ellipse((x, HORIZON - height, x + width, HORIZON + 14), fill=_shade(style.ground, 0.75))
        else:
            pen.rectangle((x, HORIZON - height, x + width, HORIZON), fill=tint)
        x += width + int(rng.integers(-6, 18))


def ego_road(style: Style, *, zebra: bool = False, lanes: int = 2) -> Image.Image:
    """The road as its driver sees it: sky, skyline, verges, `lanes` lanes that meet at the horizon, a street across."""
    canvas = Image.new("RGB", (WIDTH, HEIGHT), style.sky)
    pen = ImageDraw.Draw(canvas)
    rng = np.random.default_rng(style.seed + 1)
    for row in range(HORIZON):  # the sky pales towards the horizon
        pen.line((0, row, WIDTH, row), fill=_shade(style.sky, 0.88 + 0.2 * row / HORIZON))
    _skyline(pen, style, rng)
    pen.rectangle((0, HORIZON, WIDTH, HEIGHT), fill=style.ground)
    middle, top, bottom = WIDTH / 2, 30.0, 250.0

    def edge(side: float, row: float) -> float:
        return middle + side * (top + (bottom - top) * (row - HORIZON) / (HEIGHT - HORIZON))

    def strip(side: float, width: float, first: float, last: float, fill: RGB) -> None:
        corners = [(edge(side - width, first), first), (edge(side + width, first), first)]
        pen.polygon([*corners, (edge(side + width, last), last), (edge(side - width, last), last)], fill=fill)

    strip(0, 1.12, HORIZON, HEIGHT, _shade(style.road, 1.35))  # the pavement
    strip(0, 1.0, HORIZON, HEIGHT, style.road)
    for side in (-0.95, 0.95):
        strip(side, 0.018, HORIZON, HEIGHT, style.marking)
    for lane in range(1, lanes):
        start, dash = HORIZON + 4.0, 5.0
        while start < HEIGHT:
            strip(2 * lane / lanes - 1, 0.016, start, min(HEIGHT, start + dash), style.marking)
            start, dash = start + 2 * dash, dash * 1.45
    pen.rectangle((0, STREET[0] - 4, WIDTH, STREET[1] + 5), fill=_shade(style.road, 1.35))
    pen.rectangle((0, STREET[0], WIDTH, STREET[1]), fill=style.road)
    if zebra:
        for bar in np.linspace(-0.86, 0.86, 8):
            strip(float(bar), 0.062, ZEBRA[0], ZEBRA[1], style.marking)
    return _textured(canvas, style)


#: Where the top-down view's roads run: the centre of the crossing, and half their widths.
CROSS_X: Final = 192
CROSS_Y: Final = 140
HALF_X: Final = 50
HALF_Y: Final = 44


def crossroads(style: Style, *, zebra: bool = False) -> Image.Image:
    """A crossing from above: roads meet at (CROSS_X, CROSS_Y); the strip above is free for light and sign."""
    canvas = Image.new("RGB", (WIDTH, HEIGHT), style.ground)
    pen = ImageDraw.Draw(canvas)
    kerb = _shade(style.road, 1.35)
    west, east, north, south = CROSS_X - HALF_X, CROSS_X + HALF_X, CROSS_Y - HALF_Y, CROSS_Y + HALF_Y
    for grow, fill in ((9, kerb), (0, style.road)):
        pen.rectangle((0, north - grow, WIDTH, south + grow), fill=fill)
        pen.rectangle((west - grow, 0, east + grow, HEIGHT), fill=fill)
    for x in range(4, WIDTH, 26):
        if not west - 14 < x < east:
            pen.rectangle((x, CROSS_Y - 1, x + 13, CROSS_Y + 1), fill=style.marking)
    for y in range(2, HEIGHT, 26):
        if not north - 14 < y < south:
            pen.rectangle((CROSS_X - 1, y, CROSS_X + 1, y + 13), fill=style.marking)
    pen.rectangle((CROSS_X + 3, south + 3, east - 2, south + 7), fill=style.marking)
    if zebra:
        for x in range(west + 4, east - 4, 14):
            pen.rectangle((x, north - 36, x + 7, north - 6), fill=style.marking)
    return _textured(canvas, style)


# --- lights and signs --------------------------------------------------------------------------


@lru_cache(maxsize=64)
def traffic_light(state: str, lamp: int = 24) -> Image.Image:
    """A black box of three lamps (red, yellow, green from the top), `lamp` pixels each; one is lit."""
    pad = lamp // 5
    image, pen = _large(lamp + 2 * pad, 3 * lamp + 4 * pad)
    pen.rounded_rectangle((0, 0, image.width - 1, image.height - 1), pad * _OVER, fill=(18, 18, 20, 255))
    for place, name in enumerate(("red", "yellow", "green")):
        y = (pad + place * (lamp + pad)) * _OVER
        box = (pad * _OVER, y, (pad + lamp) * _OVER, y + lamp * _OVER)
        pen.ellipse(box, fill=LIGHT_RGB[name] if name == state else _shade(LIGHT_RGB[name], 0.18))
    return _reduced(image)


def _digits(pen: ImageDraw.ImageDraw, text: str, side: float, high: float) -> None:
    font = ImageFont.load_default(size=high)
    bold = max(1, round(high * 0.05))
    pen.text((side / 2, side / 2), text, font=font, fill=(10, 10, 10), anchor="mm", stroke_width=bold)


@lru_cache(maxsize=64)
def speed_sign(number: str, size: int = 84) -> Image.Image:
    """A round white sign with a red rim and `number` in bold black."""
    image, pen = _large(size, size)
    side = image.width
    pen.ellipse((0, 0, side - 1, side - 1), fill=(206, 20, 30, 255))
    rim = round(side * 0.1)
    pen.ellipse((rim, rim, side - 1 - rim, side - 1 - rim), fill=(250, 250, 250, 255))
    _digits(pen, number, side, side * (0.62 if len(number) < 3 else 0.44))
    return _reduced(image)


def _octagon(side: float, inset: float) -> list[tuple[float, float]]:
    radius = side / 2 - inset
    turns = [math.pi / 8 + k * math.pi / 4 for k in range(8)]
    return [(side / 2 + radius * math.cos(t), side / 2 + radius * math.sin(t)) for t in turns]


def _arrow(pen: ImageDraw.ImageDraw, side: float, flip: bool) -> None:
    shape = [(0.36, 0.8), (0.36, 0.42), (0.56, 0.42), (0.56, 0.24), (0.84, 0.5), (0.56, 0.76), (0.56, 0.58)]
    shape += [(0.52, 0.58), (0.52, 0.8)]
    points = [((1 - x if flip else x) * side, y * side) for x, y in shape]
    pen.polygon(points, fill=(250, 250, 250, 255))


def _walker(pen: ImageDraw.ImageDraw, side: float) -> None:
    ink = (10, 10, 10, 255)
    pen.polygon([(0.5 * side, 0.14 * side), (0.14 * side, 0.86 * side), (0.86 * side, 0.86 * side)], fill="white")
    pen.ellipse((0.44 * side, 0.27 * side, 0.56 * side, 0.39 * side), fill=ink)
    thick = round(side * 0.09)
    for line in ((0.5, 0.38, 0.5, 0.6), (0.5, 0.58, 0.38, 0.8), (0.5, 0.58, 0.62, 0.8), (0.36, 0.5, 0.64, 0.5)):
        pen.line([v * side for v in line], fill=ink, width=thick)


@lru_cache(maxsize=64)
def road_sign(kind: str, size: int = 84) -> Image.Image:
    """One of `words.SIGNS`: stop, no_entry, crossing, turn_left, turn_right."""
    image, pen = _large(size, size)
    side = image.width
    red, blue, white = (206, 20, 30, 255), (20, 80, 190, 255), (250, 250, 250, 255)
    if kind == "stop":
        pen.polygon(_octagon(side, 0), fill=white)
        pen.polygon(_octagon(side, side * 0.05), fill=red)
        font = ImageFont.load_default(size=side * 0.31)
        pen.text((side / 2, side / 2), "STOP", font=font, fill=white, anchor="mm", stroke_width=round(side * 0.012))
    elif kind == "no_entry":
        pen.ellipse((0, 0, side - 1, side - 1), fill=red)
        pen.rectangle((side * 0.16, side * 0.39, side * 0.84, side * 0.61), fill=white)
    elif kind == "crossing":
        pen.rounded_rectangle((0, 0, side - 1, side - 1), side * 0.08, fill=blue)
        _walker(pen, side)
    else:
        pen.ellipse((0, 0, side - 1, side - 1), fill=blue)
        _arrow(pen, side, flip={"turn_left": True, "turn_right": False}[kind])
    return _reduced(image)


def post(canvas: Image.Image, x: float, top: float, bottom: float, light: float = 1.0) -> None:
    """The post that a sign or a light stands on."""
    ImageDraw.Draw(canvas).rectangle((x - 3, top, x + 3, bottom), fill=_shade((120, 122, 126), light))


# --- road users --------------------------------------------------------------------------------


@lru_cache(maxsize=512)
def car_rear(colour: str, width: int = 80, braking: bool = False) -> Image.Image:
    """A car from behind, `width` wide and 0.8 of that high; its brake lamps glow when `braking`."""
    image, pen = _large(width, width * 0.8)
    side, high, body = image.width, image.height, VEHICLE_RGB[colour]

    def box(x0: float, y0: float, x1: float, y1: float, fill: RGB, bend: float = 0.05) -> None:
        pen.rounded_rectangle((x0 * side, y0 * high, x1 * side, y1 * high), bend * side, fill=fill)

    box(0.08, 0.74, 0.26, 0.99, (20, 20, 22))
    box(0.74, 0.74, 0.92, 0.99, (20, 20, 22))
    roof = [(0.2, 0.42), (0.28, 0.04), (0.72, 0.04), (0.8, 0.42)]
    pen.polygon([(x * side, y * high) for x, y in roof], fill=body)
    glass = [(0.27, 0.4), (0.33, 0.13), (0.67, 0.13), (0.73, 0.4)]
    pen.polygon([(x * side, y * high) for x, y in glass], fill=(66, 80, 92))
    box(0.03, 0.36, 0.97, 0.88, body, 0.08)
    box(0.03, 0.76, 0.97, 0.88, _shade(body, 0.7), 0.04)
    lamp = (255, 40, 30) if braking else (110, 16, 18)
    for x in (0.06, 0.78):
        box(x, 0.46, x + 0.16, 0.6, lamp, 0.02)
    box(0.38, 0.62, 0.62, 0.74, (232, 232, 226), 0.01)
    return _reduced(image)


@lru_cache(maxsize=512)
def car_side(colour: str, length: int = 96, facing: str = "right") -> Image.Image:
    """A car from the side, `length` long and 0.45 of that high, facing left or right."""
    image, pen = _large(length, length * 0.45)
    side, high, body = image.width, image.height, VEHICLE_RGB[colour]
    cabin = [(0.2, 0.45), (0.32, 0.04), (0.66, 0.04), (0.8, 0.45)]
    pen.polygon([(x * side, y * high) for x, y in cabin], fill=body)
    for glass in (
        [(0.26, 0.42), (0.35, 0.13), (0.48, 0.13), (0.48, 0.42)],
        [(0.52, 0.42), (0.52, 0.13), (0.64, 0.13), (0.74, 0.42)],
    ):
        pen.polygon([(x * side, y * high) for x, y in glass], fill=(66, 80, 92))
    pen.rounded_rectangle((0.01 * side, 0.4 * high, 0.99 * side, 0.82 * high), 0.05 * side, fill=body)
    for x in (0.22, 0.78):
        pen.ellipse(((x - 0.1) * side, 0.56 * high, (x + 0.1) * side, high - 1), fill=(20, 20, 22))
    pen.rectangle((0.95 * side, 0.48 * high, 0.99 * side, 0.6 * high), fill=(255, 240, 190))
    image = _reduced(image)
    return image if facing == "right" else image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


@lru_cache(maxsize=64)
def _car_from_above(colour: str, length: int) -> Image.Image:
    image, pen = _large(length, length * 0.5)
    side, high, body = image.width, image.height, VEHICLE_RGB[colour]
    pen.rounded_rectangle((0, 0, side - 1, high - 1), 0.12 * side, fill=body)
    pen.rounded_rectangle((0.24 * side, 0.14 * high, 0.72 * side, 0.86 * high), 0.06 * side, fill=(60, 72, 84))
    pen.rounded_rectangle((0.34 * side, 0.14 * high, 0.62 * side, 0.86 * high), 0.03 * side, fill=_shade(body, 0.9))
    for y in (0.06, 0.76):
        pen.rectangle((0.93 * side, y * high, 0.99 * side, (y + 0.18) * high), fill=(255, 245, 205))
    return image


@lru_cache(maxsize=1024)
def car_above(colour: str, heading: int = 90, length: int = 72) -> Image.Image:
    """A car from above, `length` long; `heading` in degrees, 0 to the right, 90 up, 180 to the left."""
    return _reduced(_car_from_above(colour, length).rotate(heading, Image.Resampling.BILINEAR, expand=True))


@lru_cache(maxsize=256)
def person(coat: int = 0, height: int = 64, step: int = 0) -> Image.Image:
    """A person walking, `height` tall; `step` is 0 to 3, the phase of the stride."""
    image, pen = _large(height * 0.5, height)
    side, high = image.width, image.height
    stride = (0.16, 0.04, -0.16, -0.04)[step % 4]
    for swing in (stride, -stride):
        leg = [(0.5 * side, 0.58 * high), ((0.5 + swing * 1.6) * side, 0.97 * high)]
        pen.line(leg, fill=(34, 36, 52), width=round(side * 0.2))
    pen.rounded_rectangle((0.24 * side, 0.24 * high, 0.76 * side, 0.64 * high), 0.14 * side, fill=COAT_RGB[coat])
    pen.ellipse((0.3 * side, 0.02 * high, 0.7 * side, 0.23 * high), fill=(228, 178, 142))
    return _reduced(image)
