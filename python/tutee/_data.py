"""Data for the command: a path as it is, arrays as a file in a folder that goes when the command ends."""

from __future__ import annotations

import os
import pathlib
import zipfile
from typing import Any, Mapping, Sequence, Union

import numpy as np

from ._errors import Error

Data = Union[str, "os.PathLike[str]", "np.ndarray[Any, Any]", Mapping[str, Any], Sequence["np.ndarray[Any, Any]"]]


def path_of(data: Data, name: str, folder: pathlib.Path) -> str:
    """The file that the command reads.

    An array [N, …] is the samples of a model with one input. A mapping has one array per input name, or `x`, and optionally
    the labels `y` [N]. Arrays in a list that differ in shape are samples one after the other: each is [n, …], or a sample. What is no numpy array but can be seen as one (a tensor on the CPU) is written without a copy.
    """
    if isinstance(data, (str, os.PathLike)):
        return os.fspath(data)
    if isinstance(data, Mapping):
        if not data:
            raise Error(f"`{name}` has no arrays", help="give one array per input name, or `x`, and labels as `y`")
        file = folder / f"{name}.npz"
        with zipfile.ZipFile(file, "w") as archive:
            for key, value in data.items():
                with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, _array(value, name), allow_pickle=False)
    elif isinstance(data, (list, tuple)) and len({np.shape(part) for part in data}) > 1:
        file = folder / name
        file.mkdir()
        width = len(str(len(data)))
        for i, part in enumerate(data):
            np.save(file / f"{i:0{width}}.npy", _array(part, name))
    else:
        file = folder / f"{name}.npy"
        np.save(file, _array(data, name))
    return str(file)


def _array(value: Any, name: str) -> np.ndarray[Any, Any]:
    array = np.asarray(value)
    if array.dtype == object:
        raise Error(
            f"`{name}` is no array of numbers",
            because=f"it is a {type(value).__name__}",
            help="give a numpy array, a mapping of input names to arrays, or a path",
        )
    return array
