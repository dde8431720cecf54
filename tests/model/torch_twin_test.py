"""Compares the reference engine with bench/peers/sab_torch.py, which was written independently: loss, outputs, every gradient
and the guard's count, in double, over the four networks and their settings. Prints a table.

    torch_twin_test.py TOOL [-k TEXT]     TOOL is the built torch_twin_dump
"""

import pathlib
import subprocess
import sys
import tempfile

try:
    import torch
except ImportError:
    print("there is no PyTorch in this Python: run ./dev setup")
    sys.exit(77)

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "bench" / "peers"))
import sab_torch  # noqa: E402

TOLERANCE = 1e-9

CASES = [
    "kind=lstm k_trunc=0 steps=20",
    "kind=lstm k_trunc=5 steps=23 ragged=true",
    "kind=lstm k_trunc=5 truncate=h steps=23",
    "kind=lstm k_trunc=0 loss=mse outputs=2",
    "kind=attention steps=20",
    "kind=attention normaliser=none init=paper steps=20",
    "kind=attention loss=last ragged=true",
    "kind=sab k_trunc=5 k_att=2 k_top=5 steps=40",
    "kind=sab k_trunc=5 k_att=2 k_top=5 steps=40 memory_state=recalled dense=raw init=paper",
    "kind=sab k_trunc=1 k_att=1 k_top=1 steps=20",
    "kind=sab k_trunc=1 k_att=5 k_top=5 steps=40",
    "kind=sab k_trunc=5 k_att=1 k_top=10 steps=30",
    "kind=sab k_trunc=100 k_att=1 k_top=5 steps=30",
    "kind=sab k_trunc=0 k_att=2 k_top=2 steps=30 memory_state=recalled",
    "kind=sab k_trunc=5 k_att=5 k_top=50 steps=30 dense=raw",
    "kind=sab k_att=20 steps=12",
    "kind=sab k_att=1 k_top=3 truncate=h steps=25",
    "kind=sab k_att=1 k_top=3 mental_updates=false steps=25",
    "kind=sab k_att=1 k_top=3 detach_scores=true steps=25",
    "kind=sab k_att=1 k_top=3 tie_guard=0.3 steps=25",
    "kind=sab k_att=1 k_top=3 tie_guard=0.3 steps=25 ragged=true rows=5",
    "kind=sab k_att=1 k_top=3 tie_guard=0.2 steps=25 memory_state=recalled score=separable",
    "kind=sab k_att=1 k_top=3 score=separable steps=25",
    "kind=sab k_att=2 k_top=3 score=separable dense=raw detach_scores=true steps=25",
    "kind=sab k_att=2 k_top=4 score=separable dense=raw memory_state=recalled steps=25",
    "kind=sab k_att=2 recall=all steps=25",
    "kind=sab k_att=2 recall=all dense=raw score=separable steps=25",
    "kind=sab k_att=1 k_top=3 recall=last steps=25",
    "kind=sab k_att=1 k_top=3 recall=random steps=25 ragged=true",
    "kind=sab k_att=1 k_top=3 recall=random dense=raw vocabulary=7 steps=25",
    "kind=sab k_att=1 k_top=3 memory_capacity=6 steps=25",
    "kind=sab k_att=1 k_top=3 memory_capacity=6 memory_policy=salient memory_recent=2 steps=30 rows=5",
    "kind=sab k_att=1 k_top=3 memory_capacity=6 memory_policy=salient memory_recent=16 steps=30",
    "kind=sab k_att=1 k_top=2 memory_capacity=5 memory_policy=salient memory_recent=1 score=separable steps=30",
    "kind=sab k_att=1 k_top=2 vocabulary=7 outputs=7 steps=25 ragged=true",
    "kind=sab k_att=1 k_top=2 vocabulary=7 outputs=7 embedding_size=3 steps=25",
    "kind=sab k_att=1 k_top=2 loss=mse outputs=2 steps=25 ragged=true",
    "kind=sab k_att=1 k_top=2 loss=last steps=25",
]


def load(stem):
    tensors, figures = {}, {}
    data, offset = bytearray(stem.with_suffix(".bin").read_bytes()), 0
    for line in stem.with_suffix(".txt").read_text().splitlines():
        what, name, *rest = line.split()
        if what == "figure":
            figures[name] = float(rest[0])
            continue
        shape = [int(size) for size in rest[1:]]
        count = 1
        for size in shape:
            count *= size
        dtype = torch.float64 if rest[0] == "f64" else torch.int64
        tensors[name] = torch.frombuffer(data, dtype=dtype, count=count, offset=offset).view(shape).clone()
        offset += 8 * count
    return tensors, figures


def config_of(case):
    settings = {"tie_guard": 0.0, "hidden_size": 6}
    fields = sab_torch.Config.__dataclass_fields__
    for word in case.split():
        key, value = word.split("=")
        if key in fields:
            kind = type(fields[key].default)
            settings[key] = value == "true" if kind is bool else kind(value)
    return sab_torch.Config(**settings)


def compare(case, stem):
    """Differences of loss, outputs and gradients, each relative to its largest value."""
    tensors, figures = load(stem)
    p = {name[6:]: value.requires_grad_() for name, value in tensors.items() if name.startswith("value/")}
    rows, steps = tensors["inputs"].shape[:2]
    lengths = tensors.get("lengths", torch.full((rows,), steps))
    config = config_of(case)
    outputs, hidden, guarded = sab_torch.forward(config, p, tensors["inputs"], lengths)
    total, count = sab_torch.loss_sum(config, outputs, tensors["targets"], lengths)
    gradients = torch.autograd.grad(total, list(p.values()), allow_unused=True)
    worst = 0.0
    for name, gradient in zip(p, gradients):
        expected = torch.zeros_like(p[name]) if gradient is None else gradient
        found = tensors["gradient/" + name]
        # A query score under softmax has a gradient of rounding errors only: nothing to be relative to.
        scale = max(expected.abs().max().item(), 1e-6)
        worst = max(worst, ((found - expected).abs().max() / scale).item())
    inside = torch.arange(steps)[None] < lengths[:, None]
    norm = (hidden.norm(dim=2) * inside).max().item()
    same = count == figures["loss_count"] and guarded == figures["guarded_count"]
    return {
        "loss": abs(total.item() - figures["loss_sum"]) / abs(figures["loss_sum"]),
        "outputs": (outputs - tensors["outputs"]).abs().max().item(),
        "gradient": worst,
        "norm": abs(norm - figures["max_hidden_norm"]),
    }, same, guarded


def main():
    tool = sys.argv[1]
    wanted = sys.argv[3] if len(sys.argv) == 4 else ""
    cases = [case for case in CASES if wanted in case]
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        lines = "".join(f"case{i} {case}\n" for i, case in enumerate(cases))
        subprocess.run([tool, folder], input=lines, text=True, check=True)
        print(f"{'loss':>8} {'outputs':>8} {'gradient':>8} {'guarded':>7}  settings")
        for i, case in enumerate(cases):
            found, same, guarded = compare(case, pathlib.Path(folder) / f"case{i}")
            ok = same and max(found.values()) <= TOLERANCE
            failures += not ok
            print(f"{found['loss']:8.1e} {found['outputs']:8.1e} {found['gradient']:8.1e} {guarded:7d}  {case}"
                  f"{'' if ok else '   <-- DIFFERS'}")
    print(f"{len(cases)} cases, {failures} differ by more than {TOLERANCE:g}")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
