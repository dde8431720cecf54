"""Data files in the form the tasks read, made from the folder of raw data when a cell needs them. Each is written once."""

import array
import hashlib
import io
import json
import os
import struct
import tarfile
import wave

MOST_SAMPLES = 8192
TEST_RECORDINGS = range(5)  # of each speaker and digit


def write_whole(path, chunks):
    """Under its name only when complete."""
    building = path.with_name(path.name + ".part")
    with open(building, "wb") as out:
        for chunk in chunks:
            out.write(chunk)
    os.replace(building, path)


def characters(words):
    """A Penn Treebank file as characters: each line without its outer spaces, spaces as `_`."""
    return "".join(line.strip().replace(" ", "_") + "\n" for line in words.splitlines()).encode()


def prepare_ptb(raw, out):
    files = {}
    for part in ("train", "valid"):
        path = files[f"ptb_{part}"] = out / f"ptb.char.{part}.txt"
        if not path.exists():
            write_whole(path, [characters((raw / "ptb" / f"ptb.{part}.txt").read_text())])
    return files


def prepare_mnist(raw, out):
    del out  # read as it is
    names = {"mnist_train": "train-images-idx3-ubyte.gz", "mnist_train_labels": "train-labels-idx1-ubyte.gz",
             "mnist_test": "t10k-images-idx3-ubyte.gz", "mnist_test_labels": "t10k-labels-idx1-ubyte.gz"}
    files = {key: raw / "mnist" / name for key, name in names.items()}
    for path in files.values():
        path.stat()
    return files


def recordings(archive):
    """(digit, index, samples) of each recording of a tar of `digit_speaker_index.wav`, 16 bit mono."""
    with tarfile.open(archive) as tar:
        for member in tar:
            if not member.name.endswith(".wav"):
                continue
            digit, _, index = os.path.basename(member.name)[:-4].split("_")
            with wave.open(io.BytesIO(tar.extractfile(member).read())) as sound:
                if sound.getsampwidth() != 2 or sound.getnchannels() != 1:
                    raise ValueError(f"{member.name}: must be 16 bit mono")
                samples = array.array("h", sound.readframes(sound.getnframes()))
            yield int(digit), int(index), samples


def safetensors(rows, most=MOST_SAMPLES):
    """The bytes of a `tensor` task's file: inputs (N,T,1) float32 with a root mean square of 1 a recording, targets (N), lengths (N)."""
    lengths = [min(len(samples), most) for _, samples in rows]
    longest = max(lengths)
    arrays = {"inputs": ("F32", [len(rows), longest, 1], 4 * len(rows) * longest), "targets": ("I64", [len(rows)], 8 * len(rows)),
              "lengths": ("I64", [len(rows)], 8 * len(rows))}
    header, offset = {}, 0
    for name, (kind, shape, size) in arrays.items():
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield struct.pack("<Q", len(text)) + text
    for (_, samples), length in zip(rows, lengths):
        used = samples[:length]
        scale = (sum(s * s for s in used) / length) ** 0.5 or 1.0
        yield array.array("f", [s / scale for s in used]).tobytes() + bytes(4 * (longest - length))
    yield array.array("q", [digit for digit, _ in rows]).tobytes()
    yield array.array("q", lengths).tobytes()


def prepare_digits(raw, out):
    files = {"digits_train": out / "digits.train.safetensors", "digits_test": out / "digits.test.safetensors"}
    if not all(path.exists() for path in files.values()):
        parts = {"digits_train": [], "digits_test": []}
        for digit, index, samples in recordings(raw / "fsdd" / "recordings.tar.xz"):
            parts["digits_test" if index in TEST_RECORDINGS else "digits_train"].append((digit, samples))
        for key, rows in parts.items():
            write_whole(files[key], safetensors(rows))
    return files


PREPARED = {"ptb": prepare_ptb, "mnist": prepare_mnist, "digits": prepare_digits}


def prepare(name, raw, out):
    """{key: absolute path} of what a cell's job names in braces."""
    out.mkdir(parents=True, exist_ok=True)
    return {key: str(path.resolve()) for key, path in PREPARED[name](raw, out).items()}


def fill(job, files):
    """The job with paths in place of `{key}`."""
    if isinstance(job, dict):
        return {key: fill(value, files) for key, value in job.items()}
    if isinstance(job, str) and job.startswith("{"):
        return files[job[1:-1]]
    return job


def digest(job):
    """Of a job file as the cell states it: results of another job file are not its results."""
    return hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()[:16]
