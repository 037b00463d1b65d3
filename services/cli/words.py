"""Figures as a person reads them: shares, points, p values, sizes, durations."""

from collections.abc import Sequence

NONE = "–"


def percent(share: float | None) -> str:
    """0.875 → 87.5%."""
    return NONE if share is None else f"{100 * share:.1f}%"


def interval(ends: Sequence[float] | None) -> str:
    """[0.829, 0.913] → 82.9–91.3."""
    return NONE if ends is None else f"{100 * ends[0]:.1f}–{100 * ends[1]:.1f}"


def points(difference: float | None) -> str:
    """0.463 → +46.3; the minus is a minus, not a hyphen."""
    return NONE if difference is None else f"{100 * difference:+.1f}".replace("-", "−")


def points_interval(ends: Sequence[float] | None) -> str:
    """[-0.03, 0.05] → −3.0 to +5.0."""
    return NONE if ends is None else f"{points(ends[0])} to {points(ends[1])}"


def p_value(p: float | None) -> str:
    """0.0003 → < 0.001."""
    if p is None:
        return NONE
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def size(count: float | None) -> str:
    """3_400_000 → 3.4 MB (decimal, as disks and hubs count)."""
    if count is None:
        return NONE
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def duration(seconds: float | None) -> str:
    """125 → 2 min 5 s."""
    if seconds is None:
        return NONE
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes else f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def per_question(seconds: float | None) -> str:
    """0.0123 → 12 ms."""
    if seconds is None:
        return NONE
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def counted(count: int, noun: str) -> str:
    """1 recording, 2 recordings."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def usd(dollars: float | None) -> str:
    """12.5 → $12.50; below ten cents two figures: 0.01234 → $0.012."""
    if dollars is None:
        return NONE
    return f"${dollars:,.2f}" if dollars >= 0.1 or not dollars else f"${dollars:.2g}"
