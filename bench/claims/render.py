"""Writes docs/CLAIMS.md (its part between two markers) and the plots from the stored results."""

import re

import results
import svg
from cells import CLAIMS

BEGIN, END = "<!-- results: written by `./dev bench claims --render` -->", "<!-- end of results -->"
MANY_LINES = 10  # a plot with more is not read


def shown(value, metric):
    if value is None:
        return "-"
    if metric == "accuracy":
        return f"{100 * value:.2f} %" if 0.99 <= value < 1 else f"{100 * value:.1f} %"
    return f"{value:.2e}" if metric == "mse" else f"{value:.3f}"


def with_spread(values, metric):
    """Mean ± standard deviation over the seeds."""
    mean, deviation, _ = results.spread(values)
    if mean is None:
        return "-"
    if deviation is None:
        return shown(mean, metric)
    if metric == "accuracy":
        return f"{shown(mean, metric)[:-2]} ± {100 * deviation:.{2 if mean >= 0.99 else 1}f} %"
    return f"{shown(mean, metric)} ± {deviation:.1e}" if metric == "mse" else f"{shown(mean, metric)} ± {deviation:.3f}"


def range_of(values, format_one):
    low, high = format_one(min(values)), format_one(max(values))
    return low if low == high else f"{low} to {high}"


def failures(runs):
    lost = [(seed, run) for seed, run in runs.items() if run["state"] != "SUCCEEDED"]
    return "; ".join(f"seed {seed} {run['state']}: {run['reason'][:120]}" for seed, run in lost)


def aim_met(cell, runs, better):
    if not cell.aim:
        return ""
    missed = []
    for length, bound in cell.aim:
        values = [run["figures"].get(str(length)) for run in runs.values()]
        good = all(v is not None and (v >= bound if better == "high" else v <= bound) for v in values)
        if not good:
            missed.append(f"{length:,}")
    return "yes" if not missed else "not at " + ", ".join(missed)


def heading_of(length, metric):
    return f"{metric} at {length:,}" if length else metric


def table(claim, found):
    lengths = sorted({length for cell, _ in found for length in cell.lengths}) or [0]
    aims = any(cell.aim for cell, _ in found)
    heads = ["cell", *(heading_of(length, claim.metric) for length in lengths), "seeds", "updates", "seconds", *(["aim met"] if aims else [])]
    rows = ["| " + " | ".join(heads) + " |", "| --- |" + " --: |" * (len(heads) - 1)]
    notes = []
    for cell, result in found:
        runs = result["runs"]
        good = {seed: run for seed, run in runs.items() if run["state"] == "SUCCEEDED"}
        columns = [with_spread([run["figures"].get(str(length)) for run in good.values()], claim.metric) for length in lengths]
        columns += [str(len(good)) if len(good) == len(runs) else f"{len(good)} of {len(runs)}",
                    range_of([run["updates"] for run in runs.values()], lambda n: f"{n:,}"),
                    range_of([run["seconds"] for run in runs.values()], lambda s: f"{s:,.0f}")]
        rows.append("| " + " | ".join([cell.title, *columns, *([aim_met(cell, runs, claim.better)] if aims else [])]) + " |")
        if failures(runs):
            notes.append(f"- {cell.title}: {failures(runs)}")
    return rows + ([""] + notes if notes else [])


def curve_chart(claim, found):
    lines = []
    for cell, result in found[:MANY_LINES]:
        length = str(cell.lengths[0]) if cell.lengths else "0"
        runs = [run["curves"][length] for run in result["runs"].values() if length in run["curves"]]
        if runs:
            lines.append((cell.title, runs))
    limits = {"low": 0, "high": 1} if claim.metric == "accuracy" else {}
    return svg.chart(f"{claim.title}: {claim.metric} over the updates", lines, "updates", claim.metric, log_y=claim.metric == "mse", **limits)


def transfer_chart(claim, found):
    lines = []
    for cell, result in found[:MANY_LINES]:
        runs = [[(length, run["figures"].get(str(length))) for length in cell.lengths] for run in result["runs"].values()]
        if len(cell.lengths) > 1 and runs:
            lines.append((cell.title, runs))
    return svg.chart(f"{claim.title}: the same weights at other lengths", lines, "length", claim.metric, log_x=True, low=0, high=1)


def peer_lines(found):
    """A table of our losses beside PyTorch's, and its chart."""
    lines, charts = ["| updates | ours | PyTorch |", "| --: | --: | --: |"], []
    for cell, result in found:
        for seed, run in result["runs"].items():
            peer = run.get("peer", {})
            if "losses" not in peer:
                lines.append(f"\n{cell.title}, seed {seed}: no comparison: {peer.get('failure', run['reason'])}")
                continue
            theirs = dict(map(tuple, peer["losses"]))
            common = [(step, loss, theirs[step]) for step, loss in peer["ours"] if step in theirs and loss is not None]
            lines += [f"| {step:,} | {ours:.5f} | {other:.5f} |" for step, ours, other in results.thin(common, 8)]
            lines.append(f"\nSeconds of {run['updates']:,} updates, threads {peer['threads']} each: {run['seconds']:,.1f} ours, "
                         f"{peer['seconds']:,.1f} PyTorch.")
            charts = [("ours", [[(s, a) for s, a, _ in common]]), ("PyTorch", [[(s, b) for s, _, b in common]])]
    return lines, svg.chart("Training loss, ours and PyTorch's", charts, "updates", "loss") if charts else ""


def section(claim, found, images):
    """Markdown lines; puts {file name: SVG} into `images`."""
    lines = [f"### {claim.title}", "", claim.text, ""]
    if claim.key == "peer":
        rows, chart = peer_lines(found)
        charts = {"peer": chart}
    else:
        rows = table(claim, found)
        charts = {"curves": curve_chart(claim, found), "transfer": transfer_chart(claim, found) if claim.metric == "accuracy" else ""}
    lines += rows + [""]
    for kind, chart in charts.items():
        if chart:
            name = f"claims-{claim.key}-{kind}.svg"
            images[name] = chart
            lines += [f"![{claim.title}: {kind}](images/{name})", ""]
    return lines


def page(cells, folder):
    """(the generated markdown, {file name: SVG})."""
    images, lines, places, missing, open_claims = {}, [], set(), 0, []
    for claim in CLAIMS:
        mine = [cell for cell in cells if cell.claim == claim.key]
        found = [(cell, result) for cell in mine if (result := results.load(folder, cell))["runs"]]
        missing += len(mine) - len(found)
        places |= {run["where"] for _, result in found for run in result["runs"].values()}
        if found:
            lines += section(claim, found, images)
        elif mine:
            open_claims.append(claim.title)
    head = [f"{len(cells) - missing} of {len(cells)} cells have results. Where: {'; '.join(sorted(places)) or 'nowhere yet'}.", ""]
    foot = [f"Not run yet: {'; '.join(open_claims)}."] if open_claims else []
    return "\n".join(head + lines + foot).rstrip() + "\n", images


def write(cells, folder, docs):
    """Into `docs`/CLAIMS.md between the markers, and `docs`/images/. Makes the page when there is none."""
    text, images = page(cells, folder)
    path = docs / "CLAIMS.md"
    old = path.read_text() if path.exists() else f"# Claims\n\n{BEGIN}\n{END}\n"
    pattern = re.compile(re.escape(BEGIN) + ".*" + re.escape(END), re.S)
    if not pattern.search(old):
        raise ValueError(f"{path} has lost its markers")
    docs.mkdir(parents=True, exist_ok=True)
    path.write_text(pattern.sub(lambda _: f"{BEGIN}\n{text}{END}", old))
    (docs / "images").mkdir(exist_ok=True)
    for stale in (docs / "images").glob("claims-*.svg"):
        if stale.name not in images:
            stale.unlink()
    for name, image in images.items():
        (docs / "images" / name).write_text(image)
