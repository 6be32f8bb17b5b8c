"""The starter SAEs: SAE folders inside the package, all for the default host."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

STARTERS = ("starter-9", "starter-14", "starter-21")
"""Their names; the number is the block whose output they read."""


def sae_folder(name_or_path: str) -> Path:
    """Return the folder of a starter SAE by its name; any other text is the path of a folder."""
    if name_or_path in STARTERS:
        return Path(str(files("steerd"))) / "starter_saes" / name_or_path
    return Path(name_or_path)
