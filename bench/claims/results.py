"""Results: one small JSON file a cell, with a run for each seed. Enough to write the page again without running anything."""

import json
import os
import statistics

CURVE_POINTS = 60


def path_of(folder, cell):
    return folder / (cell.name.replace("/", ".") + ".json")


def load(folder, cell):
    path = path_of(folder, cell)
    return json.loads(path.read_text()) if path.exists() else {"cell": cell.name, "runs": {}}


def store(folder, cell, seed, run):
    result = load(folder, cell)
    result["runs"][str(seed)] = run
    result["runs"] = dict(sorted(result["runs"].items(), key=lambda item: int(item[0])))
    folder.mkdir(parents=True, exist_ok=True)
    path = path_of(folder, cell)
    building = path.with_name(path.name + ".part")
    lines = ",\n".join(f'"{seed}": {json.dumps(run)}' for seed, run in result["runs"].items())
    building.write_text(f'{{"cell": {json.dumps(cell.name)}, "runs": {{\n{lines}\n}}}}\n')
    os.replace(building, path)


def thin(points, most=CURVE_POINTS):
    """At most `most` of a curve's points, the first and the last among them."""
    if len(points) <= most:
        return points
    return [points[round(i * (len(points) - 1) / (most - 1))] for i in range(most)]


def number(value):
    """A figure of sabctl's JSON lines; None for what is not finite."""
    return round(value, 7) if isinstance(value, (int, float)) else None


def figures_of(lines, metric):
    """({length: last value}, {length: curve}) of evaluation lines; length 0 where the task has none."""
    curves = {}
    for line in lines:
        if line["name"] == metric:
            curves.setdefault(str(line["length"]), []).append([line["step"], number(line["value"])])
    last = {length: curve[-1][1] for length, curve in curves.items()}
    return last, {length: thin(curve) for length, curve in curves.items() if len(curve) > 2}


def spread(values):
    """(mean, standard deviation or None for a single value, how many)."""
    known = [v for v in values if v is not None]
    if not known:
        return None, None, 0
    return statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None, len(known)
