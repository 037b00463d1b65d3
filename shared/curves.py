"""A training's curves as an SVG picture: the loss of every step, and below it the accuracy on the validation rows.

The same picture stands in the model's own README and in a run's report. It follows the reader's light or dark setting.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

WIDTH = 440
_LEFT, _RIGHT = 48, 428
_TALL, _GAP, _TOP = 170, 60, 34  # a panel's height, the room between two, the room above the first
_SMOOTH = 20  # a smoothed point is the mean of a step's neighbours, one in so many of all steps

_STYLE = """<style>
.curves { --paper: #fbfaf7; --ink: #1d2328; --quiet: #5e6870; --line: #d9d6ce; --sign: #0b5fa5; --up: #11734b;
  font: 13px system-ui, sans-serif; background: var(--paper); max-width: 100%; height: auto; }
@media (prefers-color-scheme: dark) { .curves { --paper: #14181b; --ink: #e7e5df; --quiet: #9aa4ab; --line: #333b41;
  --sign: #6db3ee; --up: #55c595; } }
.curves text { fill: var(--ink); } .curves .quiet { fill: var(--quiet); font-size: 12px; }
.curves .grid { stroke: var(--line); } .curves polyline { fill: none; stroke-linejoin: round; }
.curves .raw { stroke: var(--sign); opacity: .35; } .curves .smooth { stroke: var(--sign); stroke-width: 2; }
.curves .judged { stroke: var(--up); stroke-width: 2; } .curves .dot { fill: var(--up); }
.curves .ring { fill: none; stroke: var(--up); stroke-width: 2; }
</style>"""


class Training(NamedTuple):
    """What a trained model's card says of its way."""

    steps: int
    losses: list[tuple[float, float]]  #: step, loss
    validations: list[tuple[int, float]]  #: step, accuracy
    best: tuple[int, float] | None

    @classmethod
    def of(cls, card: Mapping[str, Any]) -> "Training":
        """Losses were logged at even distances up to the last step."""
        training = card.get("training") or {}
        logged = [float(loss) for loss in training.get("losses") or []]
        steps = int(training.get("steps", len(logged)))
        stride = steps / max(1, len(logged))
        losses = [(number * stride, loss) for number, loss in enumerate(logged, 1) if math.isfinite(loss)]
        judged = [(int(point["step"]), float(point["accuracy"])) for point in training.get("validations") or []]
        best = max(judged, key=lambda point: point[0] == training.get("best_step"), default=None)
        return cls(steps, losses, judged, best)


def svg(training: Training, title: str) -> str | None:
    """The picture; None where there are no two losses to draw a line between."""
    if len(training.losses) < 2:
        return None
    panels = [_losses(training)] + ([_accuracy(training)] if training.best else [])
    height = _TOP + len(panels) * (_TALL + _GAP) - _GAP // 2
    drawn = [
        f'<g transform="translate(0 {_TOP + place * (_TALL + _GAP)})">{panel}</g>' for place, panel in enumerate(panels)
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="curves" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}"'
        f' height="{height}" role="img" aria-label="{escape(told(training), quote=True)}">'
        f"<title>{escape(title)}</title>{_STYLE}{''.join(drawn)}</svg>\n"
    )


def told(training: Training) -> str:
    """The picture in words."""
    first, last = training.losses[0][1], training.losses[-1][1]
    said = f"loss from {first:.3f} to {last:.3f} over {training.steps} steps"
    if training.best is None:
        return said
    step, top = training.best
    among = f"the best of {len(training.validations)}"
    return f"{said}; validation accuracy {100 * top:.1f}% at step {step}, {among}"


def _losses(training: Training) -> str:
    top = _nice(max(loss for _, loss in training.losses))
    raw = _points(training.losses, training.steps, 0, top)
    smooth = _points(_smoothed(training.losses), training.steps, 0, top)
    lines = f'<polyline class="raw" points="{raw}"/><polyline class="smooth" points="{smooth}"/>'
    ticks = _ticks(0, top, top / 4)
    return _frame(training.steps, ticks, lambda value: f"{value:.3g}", "training loss; bold: its running mean") + lines


def _accuracy(training: Training) -> str:
    shares = [share for _, share in training.validations]
    low, high = math.floor(10 * min(shares)) / 10, math.ceil(10 * max(shares)) / 10
    high = high if high > low else low + 0.1
    assert training.best is not None
    step, share = training.best
    title = f"right on the validation rows; best, and kept: {100 * share:.1f}% at step {step}"
    ticks = _ticks(low, high, 0.1 if high - low > 0.25 else 0.05)
    drawn = _frame(training.steps, ticks, lambda value: f"{100 * value:.0f}%", title)
    drawn += f'<polyline class="judged" points="{_points(training.validations, training.steps, low, high)}"/>'
    for at, right in training.validations:
        x, y = _at(at, right, training.steps, low, high)
        drawn += f'<g><title>step {at}: {100 * right:.1f}%</title><circle class="dot" cx="{x}" cy="{y}" r="3.5"/></g>'
    x, y = _at(step, share, training.steps, low, high)
    return drawn + f'<circle class="ring" cx="{x}" cy="{y}" r="8"/>'


def _ticks(low: float, high: float, step: float) -> list[float]:
    return [low + step * place for place in range(round((high - low) / step) + 1)]


def _frame(steps: int, ticks: Sequence[float], name: Callable[[float], str], title: str) -> str:
    """Grid, ticks and title of a panel; `ticks` are the values from its lower edge to its upper."""
    drawn = f'<text x="8" y="-14">{escape(title)}</text>'
    for value in ticks:
        y = _at(0, value, steps, ticks[0], ticks[-1])[1]
        drawn += f'<line class="grid" x1="{_LEFT}" x2="{_RIGHT}" y1="{y}" y2="{y}"/>'
        drawn += f'<text class="quiet" x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{escape(name(value))}</text>'
    for step in sorted({0, steps // 4, steps // 2, 3 * steps // 4, steps}):
        x = _at(step, 0, steps, 0, 1)[0]
        shown = "step 0" if step == 0 else str(step)
        drawn += f'<text class="quiet" x="{x}" y="{_TALL + 18}" text-anchor="middle">{shown}</text>'
    return drawn


def _points(found: Sequence[tuple[float, float]], steps: int, low: float, high: float) -> str:
    return " ".join("{},{}".format(*_at(step, value, steps, low, high)) for step, value in found)


def _at(step: float, value: float, steps: int, low: float, high: float) -> tuple[float, float]:
    x = _LEFT + (_RIGHT - _LEFT) * step / steps
    return round(x, 1), round(_TALL * (1 - (value - low) / (high - low)), 1)


def _smoothed(losses: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    half = max(1, len(losses) // _SMOOTH) if len(losses) >= _SMOOTH else 0
    found = []
    for place, (step, _) in enumerate(losses):
        near = [loss for _, loss in losses[max(0, place - half) : place + half + 1]]
        found.append((step, sum(near) / len(near)))
    return found


def _nice(value: float) -> float:
    """The least of 1, 2, 2.5, 4, 5, 8, 10 times a power of ten that is no less than `value`."""
    power = 10.0 ** math.floor(math.log10(value)) if value > 0 else 1.0
    return next(power * step for step in (1, 2, 2.5, 4, 5, 8, 10) if power * step >= value)
