"""Line charts as SVG text: axes with ticks, thin lines, a legend on the right. Same input, same bytes."""

import math
from xml.sax.saxutils import escape

COLOURS = ["#0b62a4", "#d1495b", "#2e8b57", "#c77d0a", "#7b4fa3", "#4a4a4a", "#00868b", "#a0522d", "#c71585", "#6b8e23"]
WIDTH, HEIGHT = 760, 332
LEFT, RIGHT, TOP, BOTTOM = 56, 250, 46, 44  # margins


def nice_ticks(low, high, most=6):
    span = (high - low) or 1.0
    step = 10 ** math.floor(math.log10(span / most))
    step = next(step * m for m in (1, 2, 5, 10) if span / (step * m) <= most)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def decades(low, high):
    return [10.0**k for k in range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1)]


def label(value):
    if value != 0 and abs(value) < 1e-3:
        return f"{value:.0e}"
    return f"{value:,.10g}"


class Axis:
    """Maps values to pixels, linear or logarithmic."""

    def __init__(self, values, first, last, log=False, ticks=None, low=None, high=None):
        self.log = log
        self.low = min(values) if low is None else low
        self.high = max(values) if high is None else high
        if self.low == self.high:
            self.high = self.low * 2 or 1.0
        self.first, self.last = first, last
        self.ticks = ticks or (decades(self.low, self.high) if log else nice_ticks(self.low, self.high))

    def pixel(self, value):
        scale = (lambda v: math.log(max(v, self.low))) if self.log else float
        share = (scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low))
        return self.first + share * (self.last - self.first)


def text(x, y, words, anchor="start", size=11, extra=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"{extra}>{escape(words)}</text>'


def frame(x, y, x_name, y_name):
    parts = []
    for tick in y.ticks:
        at = y.pixel(tick)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}" stroke="#e4e4e4"/>')
        parts.append(text(LEFT - 6, at + 4, label(tick), "end"))
    free_from = 0.0  # where the last label ends
    for tick in x.ticks:
        at = x.pixel(tick)
        parts.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM + 4}" stroke="#888"/>')
        half = 4 * len(label(tick))
        if at - half >= free_from:
            parts.append(text(at, HEIGHT - BOTTOM + 17, label(tick), "middle"))
            free_from = at + half
    parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM}" stroke="#888"/>')
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, x_name, "middle"))
    parts.append(text(LEFT - 44, TOP - 12, y_name))
    return parts


def chart(title, lines, x_name, y_name, log_x=False, log_y=False, low=None, high=None):
    """`lines`: (name, [[(x, y), ...], ...]) with one list of points a seed; every list is drawn, in the line's one colour."""
    points = [p for _, runs in lines for run in runs for p in run if p[1] is not None]
    if not points:
        return ""
    ticks = sorted({p[0] for p in points}) if log_x else None
    x = Axis([p[0] for p in points], LEFT, WIDTH - RIGHT, log_x, ticks, low=None if log_x else 0)
    ys = [p[1] for p in points if p[1] > 0] or [1.0] if log_y else [p[1] for p in points]
    y = Axis(ys, HEIGHT - BOTTOM, TOP, log_y, low=low, high=high)
    parts = frame(x, y, x_name, y_name)
    for i, (name, runs) in enumerate(lines):
        colour = COLOURS[i % len(COLOURS)]
        dash = "" if i < len(COLOURS) else ' stroke-dasharray="5 3"'
        for run in runs:
            path = " ".join(f"{x.pixel(a):.1f},{y.pixel(b):.1f}" for a, b in run if b is not None)
            parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"{dash}/>')
            if log_x:
                parts += [f'<circle cx="{x.pixel(a):.1f}" cy="{y.pixel(b):.1f}" r="2.5" fill="{colour}"/>' for a, b in run if b is not None]
        at = TOP + 6 + 17 * i
        parts.append(f'<line x1="{WIDTH - RIGHT + 16}" x2="{WIDTH - RIGHT + 36}" y1="{at}" y2="{at}" stroke="{colour}" stroke-width="2"{dash}/>')
        parts.append(text(WIDTH - RIGHT + 42, at + 4, name))
    height = max(HEIGHT, TOP + 17 * len(lines) + 20)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="Helvetica, Arial, sans-serif" fill="#222">'
            f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>{text(LEFT - 44, 16, title, size=13, extra=" font-weight=" + chr(34) + "bold" + chr(34))}'
            + "\n".join(parts) + "</svg>\n")
