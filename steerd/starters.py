"""The starter SAEs: SAE folders inside the package, all for the default host."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

STARTERS = ("starter-9", "starter-14", "starter-21")
"""Their names; the number is the block whose output they read."""


def starter_folder(name: str) -> Path:
    """Return the folder of one of `STARTERS`."""
    return Path(str(files("steerd"))) / "starter_saes" / name
