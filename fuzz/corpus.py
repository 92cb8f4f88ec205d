#!/usr/bin/env python3
"""What the fuzzers start from: fixtures, inputs of tests, and the models that ONNX tests its backends with.

Writes fuzz/corpus/TARGET/. Needs the packages onnx, numpy and Pillow.
"""

import hashlib
import io
import json
import struct
import sys
from pathlib import Path
from typing import Iterator

import numpy as np
import onnx
from onnx.backend.test.case.node import collect_testcases
from PIL import Image

FUZZ = Path(__file__).resolve().parent
ROOT = FUZZ.parent
# Larger files are tried too seldom to be worth it.
LARGEST = 60_000


def keep(target: str, data: bytes) -> None:
    if len(data) <= LARGEST:
        folder = FUZZ / "corpus" / target
        folder.mkdir(parents=True, exist_ok=True)
        (folder / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)


def models() -> Iterator[bytes]:
    for path in sorted((ROOT / "fixtures").rglob("*.onnx")):
        yield path.read_bytes()
    for path in sorted((Path(onnx.__file__).parent / "backend/test/data").rglob("model.onnx")):
        yield path.read_bytes()
    for case in collect_testcases(None):
        if case.model is not None:
            yield case.model.SerializeToString()


def npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def npz(compressed: bool, **arrays: np.ndarray) -> bytes:
    out = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(out, **arrays)
    return out.getvalue()


def arrays() -> Iterator[bytes]:
    yield from (path.read_bytes() for path in sorted((ROOT / "fixtures").rglob("*.npz")))
    random = np.random.default_rng(0)
    for dtype in ["<f4", "<f8", ">f4", "<f2", "u1", "i1", "<i4", "<i8", ">i8", "?", "<U3", "O"]:
        for shape in [(5, 3), (3, 1, 4, 4), (3,), (), (0, 3)]:
            array = (4 * random.standard_normal(shape)).astype(dtype)
            yield npy(array)
            yield npy(np.asfortranarray(array))
    x, y = random.standard_normal((6, 1, 4, 4), dtype=np.float32), np.arange(6)
    for compressed in [False, True]:
        yield npz(compressed, x=x, y=y)
        yield npz(compressed, image=x[:, 0], y=y.astype("u1"))


def images() -> Iterator[bytes]:
    random = np.random.default_rng(0)
    for mode, channels in [("L", ()), ("RGB", (3,)), ("RGBA", (4,)), ("LA", (2,))]:
        for side in [(1, 1), (9, 7), (32, 24)]:
            pixels = random.integers(0, 256, (*side, *channels)).astype("u1")
            image = Image.fromarray(pixels)
            for stored in [mode, *(["1", "P", "I;16"] if mode == "L" else [])]:
                yield from files(image.convert(stored))


def files(image: Image.Image) -> Iterator[bytes]:
    forms: list[tuple[str, dict[str, object]]] = [("PNG", {}), ("PNG", {"optimize": True})]
    if image.mode in ("L", "RGB"):
        forms += [("JPEG", {}), ("JPEG", {"progressive": True, "quality": 30})]
    for form, options in forms:
        out = io.BytesIO()
        image.save(out, form, **options)
        yield out.getvalue()


def recipes() -> Iterator[str]:
    for folder in ["fixtures", "examples", "tests"]:
        yield from (path.read_text() for path in sorted((ROOT / folder).rglob("*.toml")) if path.name != "Cargo.toml")
    for path in sorted((ROOT / "tests/passes").rglob("*.ir")):
        # The first line of a file test is its recipe.
        first = path.read_text().split("\n", 1)[0]
        if "[" in first:
            yield "version = 1\nstep = " + first[first.index("[") :] + "\n"
    for path in sorted([*(ROOT / "docs").rglob("*.md"), *(ROOT / "src").rglob("*.rs"), *(ROOT / "src").rglob("*.md")]):
        for block in path.read_text().replace("//! ", "").replace("//!", "").split("```toml\n")[1:]:
            yield block.split("```")[0]


def states() -> Iterator[str]:
    inputs = {"model": "model", "data": "data", "fit_samples": 8, "choose_samples": 8, "tutee": "0.1.0"}
    size = {"nodes": 3, "weights": 4, "parameters": 4, "macs": 9, "bytes": 99, "latency": None}
    score = {"samples": 8, "loss": 0.1, "drop": 0.0, "accuracy": 0.5, "agreement": 0.9, "confusion": []}
    trial = {"size": size, "stored": 16, "pace": 0.9, "score": score, "short": ["x"]}
    for trials in [{}, {"clean": trial}, {"clean": trial, "clean cluster-weights:bits=4": {**trial, "score": None}}]:
        yield json.dumps({"version": 1, "inputs": inputs, "trials": trials})


def main() -> int:
    for i, model in enumerate(models()):
        keep("decode", model)
        keep("compress", struct.pack("<Q", 0x9E3779B97F4A7C15 * (i + 1) % 2**64) + model)
    for path in sorted((ROOT / "tests").rglob("*.ir")):
        keep("text", path.read_bytes())
    for target, make in {"arrays": arrays, "images": images}.items():
        for data in make():
            keep(target, data)
    for target, texts in {"recipe": recipes, "state": states}.items():
        for text in texts():
            keep(target, text.encode())
    for folder in sorted((FUZZ / "corpus").iterdir()):
        print(f"{folder.name}: {len(list(folder.iterdir()))} files")
    return 0


if __name__ == "__main__":
    sys.exit(main())
