"""The peer of bench/recovery.sh: a small data-parallel loop under torchrun, with a checkpoint after every step."""

import os
import pathlib
import time

import torch
import torch.distributed as dist

FOLDER = pathlib.Path(os.environ["SAB_BENCH_DIR"])


def replace(path, text):
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.rename(path)


def main():
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    restart = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    dist.init_process_group("gloo")
    torch.manual_seed(7)
    model = torch.nn.LSTM(10, 64)
    optimizer = torch.optim.Adam(model.parameters())
    step = 0
    checkpoint = FOLDER / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    replace(FOLDER / f"pid-{rank}", str(os.getpid()))
    first = True
    while True:
        inputs = torch.randn(40, 16, 10)
        optimizer.zero_grad()
        outputs, _ = model(inputs)
        outputs.square().mean().backward()
        for parameter in model.parameters():
            dist.all_reduce(parameter.grad)
        optimizer.step()
        step += 1
        if rank == 0:
            temporary = FOLDER / ".checkpoint.pt"
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, temporary)
            temporary.rename(checkpoint)
            if first:
                replace(FOLDER / f"first-{restart}", str(time.time()))
            replace(FOLDER / "progress", f"{restart} {step} {time.time()}")
            first = False


if __name__ == "__main__":
    main()
