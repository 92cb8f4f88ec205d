"""Compress trained ONNX networks: smaller, faster, and checked.

The work is done by the `tutee` command that this package brings along. Arrays go to it as files, progress, warnings and
errors come back as JSON, one object a line.

    import tutee
    report = tutee.compress("teacher.onnx", "student.onnx", target_size="10x", calib=images)
    print(report)
"""

from ._errors import Error, Interrupted, TargetMissed
from ._recipe import Recipe
from ._report import Check, Report, Sensitivity
from ._api import check, compress, sensitivity, version

__all__ = [
    "Check",
    "Error",
    "Interrupted",
    "Recipe",
    "Report",
    "Sensitivity",
    "TargetMissed",
    "check",
    "compress",
    "sensitivity",
    "version",
]
