"""What is measured: claims, and cells that serve them. Data alone; nothing here runs.

A cell is a job file without name, seed and labels, trained once for each seed, and the figures that are read from it. Where a claim is
about a recipe, the recipe is the job file.
"""

import dataclasses

BUDGETS = ("small", "medium", "full")  # 15 minutes and some hours on two cores; nights, or a GPU
TRANSFER = [200, 300, 400, 2000, 5000]
SYMBOLS = "accuracy"  # of the copied symbols; chance is 12.5 %


@dataclasses.dataclass(frozen=True)
class Claim:
    key: str
    title: str
    text: str  # what is claimed and aimed at
    metric: str
    better: str = "high"  # or "low"


@dataclasses.dataclass(frozen=True)
class Cell:
    name: str  # of its result, and what --only looks at
    claim: str
    title: str
    job: dict
    lengths: tuple = ()  # at which the claim's metric is read; (): the task has none
    seeds: tuple = (1, 2, 3)
    budget: str = "full"  # the smallest of BUDGETS that it is part of
    data: str = ""  # a key of data.PREPARED whose files stand in the job as {key}
    gpu: bool = False  # too large for a CPU
    peer: bool = False  # the same again in PyTorch, from the same initial values on the same batches
    aim: tuple = ()  # ((length, bound), ...): what the project aims at


CLAIMS = [
    Claim("small", "Copy of length 20: the four systems",
          "Ten symbols, twenty blanks, one-hot input, trained at length 20 and evaluated at others with the same weights. SAB learns what "
          "truncated BPTT cannot, and holds at lengths it never saw; full BPTT and full self-attention are the references.", SYMBOLS),
    Claim("recipe", "Copy of length 100 by a curriculum of lengths",
          "The recipe: H = 64, Adam at 2e-3, clipping at 1; trained at length 10 until half of the symbols are right, then at 20, until length 100 "
          "is solved; one job. With the raw integer as input, at 10, 20 and 40 and at all lengths between (`curriculum.vary`), until 99.95 % of 10,240 symbols "
          "are right; with a bounded memory at lengths up to 400 too, where memories have to leave, until length 2,000 is. "
          "Aimed at: 99.9 % at T = 100 within 60 minutes on two cores, 99.5 % at 200 to 5,000 with the same weights, 99 % at 20,000 and 100,000 with a bounded "
          "memory. The other systems by the same recipe, at most 20,000 updates.", SYMBOLS),
    Claim("copy", "Copy of length 100, 200 and 300 from scratch",
          "As the paper defines it (raw integer input, H = 128, batch 64, Adam at 1e-3, clipping at 1), and with one-hot input. Aimed at: "
          "SAB at k_trunc 5 ahead of truncated BPTT at 20 everywhere.", SYMBOLS),
    Claim("controls", "Copy: what of SAB is needed",
          "SAB with one part exchanged: what is recalled, and where the gradient may go.", SYMBOLS),
    Claim("adding", "Adding",
          "Two marked numbers of a sequence; the target is half their sum. Aimed at: below 1e-5 at T = 400. Chance is 0.0417.", "mse", "low"),
    Claim("recall", "Recall over 10,000 to 1,000,000 steps",
          "The first symbol is asked for at the last step, after distractors; learned by a curriculum of lengths. Chance is 12.5 %.",
          "accuracy"),
    Claim("text", "Penn Treebank by characters",
          "Bits per character on the validation part, every window from an empty memory; symbols by an embedding of 128. Beside the paper only "
          "at H = 1,000. At H = 128 and 4,000 updates nothing beyond five steps helps an LSTM: full BPTT is behind truncation at 5 and 20, "
          "and SAB is where full BPTT is.", "bits", "low"),
    Claim("image", "Permuted MNIST", "Class of an image read pixel by pixel in a fixed random order, 784 steps; the test images.",
          "accuracy"),
    Claim("digits", "Spoken digits from raw audio",
          "Class of a recording of 1,148 to 8,192 samples (mean 3,487; longer ones are cut), one sample a step; recordings 0 to 4 of each "
          "speaker and digit are held out. Chance is 10 %.", "accuracy"),
    Claim("ablation", "What makes SAB train well",
          "Copy of length 20, one-hot, H = 64: the defaults, and each with one choice exchanged. `paper` is the authors' published form.",
          SYMBOLS),
    Claim("peer", "The same run in PyTorch",
          "Copy of length 20, one-hot, H = 64, beside an independent implementation in plain PyTorch that starts from the same initial "
          "values and sees the same batches.", "loss", "low"),
]

PAPER = {"init": "paper", "dense": "raw", "memory_state": "recalled", "tie_guard": 0}
SYSTEMS = {  # name: (title, model)
    "sab": ("SAB, k_trunc = k_top = 5", {"kind": "sab"}),
    "lstm": ("LSTM, full BPTT", {"kind": "lstm"}),
    "lstm-k1": ("LSTM, truncated at 1", {"kind": "lstm", "k_trunc": 1}),
    "lstm-k5": ("LSTM, truncated at 5", {"kind": "lstm", "k_trunc": 5}),
    "lstm-k20": ("LSTM, truncated at 20", {"kind": "lstm", "k_trunc": 20}),
    "attention": ("LSTM, full self-attention", {"kind": "attention"}),
}
CONTROLS = {
    "k1": ("k_trunc = k_top = 1", {"k_trunc": 1, "k_top": 1}),
    "k10": ("k_trunc = k_top = 10", {"k_trunc": 10, "k_top": 10}),
    "separable": ("separable score", {"score": "separable"}),
    "no-mental": ("no mental updates", {"mental_updates": False}),
    "random": ("random recall", {"recall": "random"}),
    "last": ("last-k recall", {"recall": "last"}),
    "all": ("all memories", {"recall": "all"}),
    "h-only": ("truncation of h alone", {"truncate": "h"}),
    "paper": ("the authors' form", PAPER),
}
READS_ALL = "all"  # its step grows with the number of memories: fewer updates, one seed


def job(model, task, train, evaluation, **more):
    return {"model": model, "task": task, "train": {"clip_norm": 1.0, **train}, "eval": evaluation,
            "checkpoint": {"every": 1000, "keep_latest": 1}, **more}


def copy_task(length, one_hot):
    return {"kind": "copy", "length": length, "one_hot": one_hot}


def small_cells():
    for name, (title, model) in SYSTEMS.items():
        yield Cell(f"small/{name}", "small", title,
                   job({**model, "hidden_size": 64}, copy_task(20, True), {"steps": 8000, "learning_rate": 2e-3},
                       {"every": 200, "lengths": [20], "stop_when": "accuracy >= 0.999", "sequences": 256,
                        "final_lengths": [40, 100, 400, 2000], "final_sequences": 128}),
                   (20, 40, 100, 400, 2000), seeds=(1,), budget="small")


def recipe(one_hot, model=None, final=TRANSFER, sequences=128, lengths=(10, 20), steps=40000, fine=False):
    """Trained at length 10 until half is right, then at 20, until length 100 is solved: what holds at 100 is learned at 20. Seeds differ
    in when recall is found, so the steps are a bound and not the budget of the usual run. fine: at all lengths between too, and stopped by
    more symbols and fewer errors among them, for what is learned less cleanly."""
    return job({"kind": "sab", "hidden_size": 64, **(model or {})}, copy_task(lengths[-1], one_hot), {"steps": steps, "learning_rate": 2e-3},
               {"every": 200, "lengths": [100], "stop_when": f"accuracy >= {0.9995 if fine else 0.999}", "sequences": 1024 if fine else 256,
                "final_lengths": final, "final_sequences": sequences},
               curriculum={"lengths": list(lengths), "advance_when": "accuracy >= 0.5", **({"vary": True} if fine else {})})


def bounded_raw_recipe(bounded, final):
    """What is asked for late must be recalled now and then, or it leaves a full memory: that is learned at lengths that fill it."""
    held = recipe(False, bounded, final, 16, (10, 20, 40, 400), fine=True)
    held["eval"].update(lengths=[2000], sequences=128, stop_when="accuracy >= 0.999")
    held["curriculum"]["advance_when"] = "accuracy >= 0.9"
    return held


def recipe_cells():
    """The recipe; what else could be recalled at 100,000; the other systems by it, and where they do not carry over, trained at 100 too."""
    far = (100, 5000, 20000, 100000)
    bounded = {"memory": {"capacity": 128, "policy": "salient", "recent": 16}}
    to_100 = (10, 20, 100)
    for key, one_hot in (("onehot", True), ("raw", False)):
        shown, short = ("one-hot", (10, 20)) if one_hot else ("raw integer", (10, 20, 40))
        aim = ((100, 0.999), *((length, 0.995) for length in TRANSFER))
        yield Cell(f"recipe/{key}", "recipe", f"SAB, {shown}", recipe(one_hot, lengths=short, fine=not one_hot), (100, *TRANSFER),
                   aim=aim, budget="small" if one_hot else "medium")
        yield Cell(f"recipe/{key}-bounded", "recipe", f"SAB, {shown}, memory of 128",
                   recipe(True, bounded, list(far[1:]), 16) if one_hot else bounded_raw_recipe(bounded, list(far)), far, budget="medium",
                   aim=((100, 0.999), (20000, 0.99), (100000, 0.99)))
        for name, (what, model) in SYSTEMS.items():
            if name == "sab":
                continue
            yield Cell(f"recipe/{key}-{name}", "recipe", f"{what}, {shown}", recipe(one_hot, model, steps=20000), (100, *TRANSFER),
                       budget="medium" if one_hot else "full")
        for name in ("lstm", "lstm-k20", "attention"):
            what, model = SYSTEMS[name]
            yield Cell(f"recipe/{key}-{name}-to-100", "recipe", f"{what}, {shown}, trained at 10, 20, 100",
                       recipe(one_hot, model, lengths=to_100, steps=20000), (100, *TRANSFER),
                       budget="medium" if one_hot else "full")
        alone = recipe(one_hot, lengths=(100,))
        del alone["curriculum"]
        yield Cell(f"recipe/{key}-separable", "recipe", f"SAB, {shown}, separable score", recipe(one_hot, {"score": "separable"}, list(far[1:]), 16, short, fine=not one_hot),
                   far, budget="medium" if one_hot else "full")
        yield Cell(f"recipe/{key}-scratch", "recipe", f"SAB, {shown}, length 100 alone", alone, (100, *TRANSFER),
                   budget="medium" if one_hot else "full")


def raw_cells():
    """What the raw input needs of a curriculum: its recipe with the lengths taken in another way."""
    yield Cell("recipe/raw-fixed", "recipe", "SAB, raw integer, lengths 10, 20, not varied", recipe(False, steps=24000), (100, *TRANSFER),
               seeds=(1, 2), budget="medium")
    yield Cell("recipe/raw-fixed-to-100", "recipe", "SAB, raw integer, lengths 10, 20, 40, 100, not varied",
               recipe(False, lengths=(10, 20, 40, 100), steps=16000), (100, *TRANSFER), seeds=(1, 2), budget="medium")


def control_cells():
    """By the recipe, where a run is a minute or two; copy_cells() has them from scratch."""
    for name, (title, change) in CONTROLS.items():
        yield Cell(f"controls/recipe/{name}", "controls", f"recipe, one-hot: {title}", recipe(True, change, steps=20000), (100, *TRANSFER),
                   budget="medium")
    yield Cell("controls/recipe/lstm-h-only", "controls", "recipe, one-hot: LSTM, truncation of h alone at 5",
               recipe(True, {"kind": "lstm", "k_trunc": 5, "truncate": "h"}, steps=20000), (100, *TRANSFER), budget="medium")


def scratch(model, length, one_hot, steps=30000):
    final = TRANSFER if length == 100 else []
    return job({"hidden_size": 128, **model}, copy_task(length, one_hot), {"steps": steps},
               {"every": 500, "lengths": [length], "stop_when": "accuracy >= 0.999", "sequences": 256,
                **({"final_lengths": final, "final_sequences": 64} if final else {})})


def copy_cells():
    for length in (100, 200, 300):
        for key, one_hot in (("onehot", True), ("raw", False)):
            lengths = (length, *TRANSFER) if length == 100 else (length,)
            where, shown = f"{key}/T{length}", f"T = {length}, {'one-hot' if one_hot else 'raw'}"
            for name, (title, model) in SYSTEMS.items():
                yield Cell(f"copy/{where}/{name}", "copy", f"{shown}: {title}", scratch(model, length, one_hot), lengths)
            for name, (title, change) in CONTROLS.items():
                slow = name == READS_ALL
                yield Cell(f"controls/{where}/{name}", "controls", f"{shown}: {title}",
                           scratch({"kind": "sab", **change}, length, one_hot, 10000 if slow else 30000), lengths,
                           seeds=(1, 2, 3) if length == 100 and not slow else (1,))
            yield Cell(f"controls/{where}/lstm-h-only", "controls", f"{shown}: LSTM, truncation of h alone at 5",
                       scratch({"kind": "lstm", "k_trunc": 5, "truncate": "h"}, length, one_hot), lengths,
                       seeds=(1, 2, 3) if length == 100 else (1,))


def adding_cells():
    """By a curriculum, evaluated beyond what it was trained at; and from scratch, as the paper defines it."""
    names = ("sab", "lstm", "lstm-k20", "attention")
    systems = {**{name: SYSTEMS[name] for name in names},
               "sab-k10": ("SAB, k_trunc = k_top = 10", {"kind": "sab", "k_trunc": 10, "k_top": 10})}
    for name in names:
        title, model = systems[name]
        yield Cell(f"adding/recipe/{name}", "adding", f"trained at 20, then 100: {title}",
                   job({"hidden_size": 64, **model}, {"kind": "adding", "length": 100},
                       {"steps": 20000, "learning_rate": 4e-3, "schedule": {"kind": "cosine", "final_factor": 0.002}},
                       {"every": 500, "lengths": [200, 400], "sequences": 1024},
                       curriculum={"lengths": [20, 100], "advance_when": "mse <= 0.001"}),
                   (200, 400), budget="medium", aim=((200, 1e-5), (400, 1e-5)) if name == "sab" else ())
    for length in (200, 400):
        for name, (title, model) in systems.items():
            yield Cell(f"adding/T{length}/{name}", "adding", f"T = {length}: {title}",
                       job({"hidden_size": 128, **model}, {"kind": "adding", "length": length},
                           {"steps": 20000, "schedule": {"kind": "cosine", "final_factor": 0.01}},
                           {"every": 500, "lengths": [length], "stop_when": "mse <= 5e-6"}),
                       (length,), aim=((length, 1e-5),) if name.startswith("sab") else ())


def recall_cells():
    models = {"sab": ("SAB, memory of 64, salient", {"kind": "sab", "memory": {"capacity": 64, "policy": "salient"}}),
              "separable": ("SAB, separable score", {"kind": "sab", "score": "separable"}),
              "lstm-k20": SYSTEMS["lstm-k20"]}
    for name, (title, model) in models.items():
        yield Cell(f"recall/{name}", "recall", title,
                   job({"hidden_size": 64, **model}, {"kind": "recall", "length": 10000}, {"steps": 6000, "batch_size": 16},
                       {"every": 200, "lengths": [10000], "stop_when": "accuracy >= 0.999", "sequences": 64,
                        "final_lengths": [100000, 1000000], "final_sequences": 32},
                       curriculum={"lengths": [20, 100, 1000, 10000], "advance_when": "accuracy >= 0.99"}),
                   (10000, 100000, 1000000), aim=((10000, 0.99), (100000, 0.99), (1000000, 0.99)))


def text_cells():
    more = {"sab-k10": ("SAB, k_trunc = k_top = 10", {"kind": "sab", "k_trunc": 10, "k_top": 10}),
            "lstm-onehot": ("LSTM, full BPTT, one-hot symbols", {"kind": "lstm", "embedding_size": 0})}
    for hidden, batch, steps, budget in ((128, 64, 4000, "medium"), (1000, 128, 20000, "full")):
        systems = {**SYSTEMS, **more} if budget == "medium" else SYSTEMS
        for name, (title, model) in systems.items():
            yield Cell(f"text/H{hidden}/{name}", "text", f"H = {hidden:,}: {title}",
                       job({"hidden_size": hidden, "embedding_size": 128, **model},
                           {"kind": "text", "path": "{ptb_train}", "valid_path": "{ptb_valid}", "window": 100},
                           {"steps": steps, "batch_size": batch, "learning_rate": 2e-3,
                            "schedule": {"kind": "cosine", "final_factor": 0.05}},
                           {"every": 500, "sequences": 3930}),
                       data="ptb", gpu=budget == "full", budget=budget)


def image_cells():
    systems = {"sab": ("SAB, k_trunc 50, k_att 10, k_top 10", {"kind": "sab", "k_trunc": 50, "k_att": 10, "k_top": 10}),
               "lstm": SYSTEMS["lstm"], "lstm-k20": SYSTEMS["lstm-k20"], "attention": SYSTEMS["attention"]}
    for hidden, steps, budget in ((64, 3000, "medium"), (128, 20000, "full")):
        for name, (title, model) in systems.items():
            yield Cell(f"image/H{hidden}/{name}", "image", f"H = {hidden}: {title}",
                       job({"hidden_size": hidden, **model},
                           {"kind": "image", "path": "{mnist_train}", "labels_path": "{mnist_train_labels}", "permute_seed": 1},
                           {"steps": steps, "learning_rate": 2e-3, "schedule": {"kind": "cosine", "final_factor": 0.05}},
                           {"every": 1000, "sequences": 10000, "path": "{mnist_test}", "labels_path": "{mnist_test_labels}"}),
                       seeds=(1,), data="mnist", budget="full" if name == "attention" else budget)


def digits_cells():
    systems = {"sab": ("SAB, k_trunc 50, k_att 26, k_top 10", {"kind": "sab", "k_trunc": 50, "k_att": 26, "k_top": 10}),
               "lstm-k50": ("LSTM, truncated at 50", {"kind": "lstm", "k_trunc": 50}), "lstm": SYSTEMS["lstm"]}
    for hidden, steps, budget in ((64, 2000, "medium"), (128, 10000, "full")):
        for name, (title, model) in systems.items():
            yield Cell(f"digits/H{hidden}/{name}", "digits", f"H = {hidden}: {title}",
                       job({"hidden_size": hidden, **model}, {"kind": "tensor", "path": "{digits_train}"},
                           {"steps": steps, "batch_size": 32, "learning_rate": 2e-3, "schedule": {"kind": "cosine", "final_factor": 0.05}},
                           {"every": 200, "sequences": 300, "path": "{digits_test}"}),
                       seeds=(1,), data="digits", budget=budget)


ABLATIONS = {  # name: (title, model, train)
    "defaults": ("the defaults", {}, {}),
    "paper": ("the authors' form", PAPER, {}),
    "init": ("init: paper", {"init": "paper"}, {}),
    "dense": ("dense: raw", {"dense": "raw"}, {}),
    "recalled": ("memory_state: recalled", {"memory_state": "recalled"}, {}),
    "no-guard": ("tie_guard: 0", {"tie_guard": 0}, {}),
    "guard-0.1": ("tie_guard: 0.1", {"tie_guard": 0.1}, {}),
    "k_att-1": ("k_att: 1", {"k_att": 1}, {}),
    "k_att-3": ("k_att: 3", {"k_att": 3}, {}),
    "rate-0.001": ("learning_rate: 1e-3", {}, {"learning_rate": 1e-3}),
    "rate-0.004": ("learning_rate: 4e-3", {}, {"learning_rate": 4e-3}),
    "rows-32": ("batch_size: 32", {}, {"batch_size": 32}),
    "no-clip": ("clip_norm: 0", {}, {"clip_norm": 0}),
    "clip-0.1": ("clip_norm: 0.1", {}, {"clip_norm": 0.1}),
}


def ablation(name, title, model, train, **more):
    return Cell(f"ablation/{name}", "ablation", title,
                job({"kind": "sab", "hidden_size": 64, **model}, copy_task(20, True), {"steps": 8000, "learning_rate": 2e-3, **train},
                    {"every": 200, "lengths": [20], "stop_when": "accuracy >= 0.999", "sequences": 256,
                     "final_lengths": [100, 400, 2000], "final_sequences": 128}, **more),
                (20, 100, 400, 2000), budget="medium")


def ablation_cells():
    for name, (title, model, train) in ABLATIONS.items():
        yield ablation(name, title, model, train)
    for start in (5, 10):
        yield ablation(f"from-{start}", f"a curriculum from length {start}", {}, {},
                       curriculum={"lengths": [start, 20], "advance_when": "accuracy >= 0.9"})


def peer_cells():
    yield Cell("peer/copy-20", "peer", "SAB, ours",
               {**job({"kind": "sab", "hidden_size": 64}, copy_task(20, True), {"steps": 1000, "learning_rate": 2e-3},
                      {"every": 0, "lengths": [20]}),
                "checkpoint": {"every": 0, "keep_latest": 2, "initial": True}},
               (20,), seeds=(1,), peer=True, budget="small")


def all_cells():
    """In the order in which they run: what says most in the least time first."""
    makers = (small_cells, peer_cells, recipe_cells, raw_cells, ablation_cells, control_cells, recall_cells, adding_cells, copy_cells, text_cells, image_cells,
              digits_cells)
    return [cell for maker in makers for cell in maker()]
