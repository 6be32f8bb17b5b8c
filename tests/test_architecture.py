"""The import rules of the project, read from the source with `ast`.

This file is the rule: the table below says which parts may know which. Everything not listed is forbidden.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PRODUCTS = ("steerd", "sae_train", "benchmarks", "deploy")

# Part -> what of this project it may import. A part is a module or a package; the longest match wins.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "steerd.errors": (),
    "steerd.starters": (),
    "steerd.passing_thread": (),
    "steerd.config": ("steerd.starters", "steerd.errors"),
    "steerd.config_file": ("steerd.config", "steerd.starters", "steerd.errors"),
    "steerd.sae": ("steerd.errors",),
    "steerd.host": ("steerd.errors",),
    "steerd.steering": ("steerd.sae", "steerd.host", "steerd.errors"),
    "steerd.loading": (
        "steerd.steering.loaded_saes",
        "steerd.sae",
        "steerd.host",
        "steerd.config",
        "steerd.starters",
    ),
    "steerd.engine": ("steerd.steering", "steerd.sae", "steerd.host", "steerd.config", "steerd.errors"),
    "steerd.selftest": (
        "steerd.loading",
        "steerd.engine",
        "steerd.steering",
        "steerd.sae",
        "steerd.host",
        "steerd.config",
        "steerd.errors",
    ),
    "steerd.monitoring": (
        "steerd.engine.events",
        "steerd.engine.faults",
        "steerd.engine.request",
        "steerd.engine.watch_list",
        "steerd.sae.feature_label",
        "steerd.steering.intervention",
        "steerd.steering.trigger",
        "steerd.config",
        "steerd.errors",
    ),
    "steerd.studies": (
        "steerd.engine.steered_forward",
        "steerd.engine.study",
        "steerd.steering",
        "steerd.sae",
        "steerd.host",
        "steerd.errors",
    ),
    "steerd.study_wire": (
        "steerd.client_messages",
        "steerd.condition_wire",
        "steerd.engine.study",
        "steerd.intervention_wire",
        "steerd.pb",
        "steerd.receipt_wire",
        "steerd.sae.feature_label",
        "steerd.sae.feature_note",
        "steerd.steering.intervention",
        "steerd.steering.scope",
        "steerd.steering.steering",
        "steerd.studies",
    ),
    "steerd.pb": (),
    "steerd.server": (
        "steerd.studies",
        "steerd.study_wire",
        "steerd.condition_wire",
        "steerd.intervention_wire",
        "steerd.receipt_wire",
        "steerd.pb",
        "steerd.engine",
        "steerd.steering",
        "steerd.sae",
        "steerd.host",
        "steerd.monitoring.activity",
        "steerd.monitoring.top_features",
        "steerd.passing_thread",
        "steerd.config",
        "steerd.config_file",
        "steerd.errors",
    ),
    "steerd.instruments": (
        "steerd.monitoring",
        "steerd.engine.engine",
        "steerd.steering.loaded_saes",
        "steerd.host",
        "steerd.config",
    ),
    "steerd.app": ("steerd",),
    "steerd.client_messages": (
        "steerd.steering.intervention",
        "steerd.steering.receipt",
        "steerd.steering.steering",
        "steerd.steering.trigger",
    ),
    "steerd.condition_wire": ("steerd.pb", "steerd.steering.intervention", "steerd.steering.trigger"),
    "steerd.intervention_wire": (
        "steerd.condition_wire",
        "steerd.pb",
        "steerd.steering.intervention",
        "steerd.steering.scope",
        "steerd.steering.steering",
    ),
    "steerd.receipt_wire": ("steerd.pb", "steerd.steering.receipt"),
    "steerd.client_views": (
        "steerd.sae.feature_label",
        "steerd.steering.intervention",
        "steerd.steering.steering",
    ),
    "steerd.client_views_wire": (
        "steerd.client_views",
        "steerd.intervention_wire",
        "steerd.pb",
        "steerd.sae.feature_label",
        "steerd.steering.intervention",
        "steerd.steering.steering",
        "steerd.study_wire.label",
    ),
    "steerd.client_wire": (
        "steerd.client_messages",
        "steerd.client_views",
        "steerd.condition_wire",
        "steerd.intervention_wire",
        "steerd.receipt_wire",
        "steerd.pb",
        "steerd.steering.intervention",
        "steerd.steering.steering",
    ),
    "steerd.client_channel": ("steerd.errors",),
    "steerd.client": (
        "steerd.client_channel",
        "steerd.client_messages",
        "steerd.client_views",
        "steerd.client_views_wire",
        "steerd.client_wire",
        "steerd.pb",
        "steerd.errors",
    ),
    "steerd.feature_client": (
        "steerd.client_channel",
        "steerd.engine.study",
        "steerd.intervention_wire",
        "steerd.sae.feature_label",
        "steerd.pb",
        "steerd.steering.intervention",
        "steerd.studies",
        "steerd.study_wire",
    ),
    "steerd.cli": ("steerd",),
    "steerd.__main__": ("steerd",),
    "sae_train": ("steerd.sae", "steerd.host", "steerd.errors"),
    "sae_train.formats": ("steerd.sae", "steerd.host.hook_point", "steerd.errors"),
    "benchmarks": ("steerd", "sae_train", "deploy"),
    "deploy": (),
}

# Outside package -> the only parts of the two products that may import it.
ONLY_IN: dict[str, tuple[str, ...]] = {
    "grpc": ("steerd.server", "steerd.pb", "steerd.client", "steerd.client_channel"),
    "grpc_health": ("steerd.server", "steerd.client"),
    "grpc_reflection": ("steerd.server",),
    "grpc_status": ("steerd.server", "steerd.client_channel"),
    "google": ("steerd.server", "steerd.pb", "steerd.client_channel"),
    "steerd.pb": (
        "steerd.pb",
        "steerd.server",
        "steerd.client",
        "steerd.client_views_wire",
        "steerd.client_wire",
        "steerd.condition_wire",
        "steerd.feature_client",
        "steerd.intervention_wire",
        "steerd.receipt_wire",
        "steerd.study_wire",
    ),
    "prometheus_client": ("steerd.monitoring", "steerd.instruments"),
    # An extra: the one module that imports it is itself imported only where spans are wanted.
    "opentelemetry": ("steerd.monitoring.request_spans",),
    # Of other people's pickles one reader reads the weights, in the trainer's import command.
    "pickle": ("sae_train.formats.torch_file",),
    "pickletools": ("sae_train.formats.torch_file",),
    "torch.load": ("sae_train.formats.torch_file",),
    # The batcher, its setup and the paged cache that it is given; they change with each minor version of
    # transformers.
    "transformers.generation.continuous_batching": (
        "steerd.engine.batch_processor",
        "steerd.engine.continuous_batching",
        "steerd.engine.kv_cache",
    ),
}

# Modules that must stay quick to import: nothing they import may lead to these packages.
TORCH_FREE = (
    "steerd.client_messages",
    "steerd.errors",
    "steerd.starters",
    "steerd.config",
    "steerd.config_file",
    "steerd.engine.request",
    "steerd.sae.feature_label",
    "steerd.sae.feature_note",
    "steerd.engine.study",
    "steerd.studies.answers.result",
    "steerd.studies.answers.wish",
    "steerd.studies.contrast_table",
    "steerd.studies.feature_matches",
    "steerd.studies.feature_page",
    "steerd.studies.attribution.metric",
    "steerd.studies.attribution.result",
    "steerd.studies.attribution.wish",
    "steerd.studies.applied_steering",
    "steerd.studies.effect_table",
    "steerd.studies.dose_curve",
    "steerd.studies.encoded_tokens",
    "steerd.studies.lens_table",
    "steerd.studies.output_table",
    "steerd.studies.special_token_table",
    "steerd.studies.trace_table",
    "steerd.sae.feature_label",
    "steerd.steering.intervention",
    "steerd.steering.receipt",
    "steerd.steering.scope",
    "steerd.steering.steering",
    "steerd.steering.trigger",
)
HEAVY = ("torch", "transformers")

VAGUE_NAMES = frozenset({"utils", "util", "helpers", "helper", "common", "misc", "types", "base", "core"})


def within(module: str, parts: tuple[str, ...]) -> bool:
    """Whether `module` is one of `parts` or lies inside one."""
    return any(module == part or module.startswith(part + ".") for part in parts)


def imported_modules(tree: ast.AST) -> Iterator[str]:
    """Every name that the code imports (`from a import b` gives `a.b`); relative ones start with a dot."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from (f"{module}.{alias.name}" for alias in node.names)


def rule_for(module: str) -> tuple[str, ...] | None:
    """The project parts that `module` may import, itself included; None when the table has no such part."""
    parts = [part for part in MAY_IMPORT if within(module, (part,))]
    if not parts:
        return None
    part = max(parts, key=len)
    return (part, *MAY_IMPORT[part])


def violations(module: str, source: str) -> list[str]:
    """What `source`, as the text of `module` (a package's `__init__` has the package's name), does wrong."""
    imports = list(imported_modules(ast.parse(source)))
    allowed = rule_for(module)
    if allowed is None:
        return ["is no part of the import table"] if imports else []
    found = [f"imports {name} by a relative path" for name in imports if name.startswith(".")]
    for name in imports:
        if within(name, PRODUCTS) and not within(name, allowed):
            found.append(f"may not import {name}")
        for package, places in ONLY_IN.items():
            if within(name, (package,)) and within(module, PRODUCTS[:2]) and not within(module, places):
                found.append(f"may not import {name}: {package} belongs to {', '.join(places)}")
        if module in TORCH_FREE and within(name, HEAVY):
            found.append(f"may not import {name}: it must stay quick to import")
    return found


def unsafe_loads(module: str, source: str) -> list[str]:
    """Calls that may run what a file says: torch.load but in its one place, numpy.load as it comes."""
    found = []
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        name = ast.unparse(call.func)
        said = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if name == "torch.load" and not within(module, ONLY_IN["torch.load"]):
            found.append("calls torch.load")
        if name == "torch.load" and said.get("weights_only") != "True":
            found.append("calls torch.load without weights_only=True")
        if name in ("np.load", "numpy.load") and said.get("allow_pickle") != "False":
            found.append(f"calls {name} without allow_pickle=False")
    return found


def init_violations(source: str) -> list[str]:
    """An `__init__.py` holds one docstring: importing a module costs nothing but that module."""
    body = ast.parse(source).body
    is_docstring = (
        len(body) == 1
        and isinstance(body[0], ast.Expr)
        and isinstance(body[0].value, ast.Constant)
        and isinstance(body[0].value.value, str)
    )
    return [] if is_docstring else ["holds something other than its docstring"]


def source_files() -> list[Path]:
    return [path for product in PRODUCTS for path in sorted((ROOT / product).rglob("*.py"))]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_imports_point_one_way() -> None:
    wrong = [
        f"{module_name(path)} {v}"
        for path in source_files()
        for v in violations(module_name(path), path.read_text())
    ]

    assert wrong == []


def test_no_file_is_unpickled() -> None:
    ours = [path for path in source_files() if within(module_name(path), PRODUCTS[:2])]

    wrong = [
        f"{module_name(path)} {v}" for path in ours for v in unsafe_loads(module_name(path), path.read_text())
    ]

    assert wrong == []


def test_a_planted_unpickling_is_found() -> None:
    assert unsafe_loads("steerd.sae.sae_file", "import torch\nx = torch.load(path, weights_only=True)") != []
    assert unsafe_loads("sae_train.formats.torch_file", "x = torch.load(path, weights_only=True)") == []
    assert unsafe_loads("sae_train.formats.torch_file", "x = torch.load(path)") != []
    assert unsafe_loads("sae_train.activations.shard", "x = np.load(path)") != []
    assert unsafe_loads("sae_train.activations.shard", "x = np.load(path, allow_pickle=False)") == []
    assert violations("steerd.sae.sae_file", "import pickle") != []
    assert violations("steerd.sae.sae_file", "from torch import load") != []


def test_init_files_hold_a_docstring_only() -> None:
    inits = [path for path in source_files() if path.name == "__init__.py"]

    wrong = [f"{path.relative_to(ROOT)} {v}" for path in inits for v in init_violations(path.read_text())]

    assert len(inits) >= len(PRODUCTS)
    assert wrong == []


def test_no_module_has_a_vague_name() -> None:
    assert [str(path) for path in source_files() if path.stem in VAGUE_NAMES] == []


def test_torch_free_modules_import_only_each_other() -> None:
    for module in TORCH_FREE:
        path = ROOT / (module.replace(".", "/") + ".py")
        ours = [name for name in imported_modules(ast.parse(path.read_text())) if within(name, PRODUCTS)]
        assert all(within(name, TORCH_FREE) for name in ours), f"{module} imports {ours}"


def test_every_package_map_names_its_modules() -> None:
    maps = [path for path in source_files() if path.name == "__init__.py"]
    for init in (path for path in maps if within(module_name(path), PRODUCTS[:2])):
        modules = [path.stem for path in init.parent.glob("*.py") if path != init and "_pb2" not in path.stem]
        unnamed = [module for module in modules if f"`{module}`" not in init.read_text()]
        assert unnamed == [], f"{init.relative_to(ROOT)} does not say what they hold"


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        (
            "steerd.sae.autoencoder",
            "from steerd.host.hook_point import HookPoint",
            "may not import steerd.host",
        ),
        ("steerd.sae.autoencoder", "from steerd import host", "may not import steerd.host"),
        ("steerd.engine.engine", "import steerd.server.parse", "may not import steerd.server.parse"),
        (
            "steerd.monitoring.metrics",
            "from steerd.engine.engine import Engine",
            "may not import steerd.engine.engine",
        ),
        (
            "steerd.server.parse",
            "from steerd.monitoring.metrics import Metrics",
            "may not import steerd.monitoring",
        ),
        ("steerd.app", "from sae_train.training.trainer import Trainer", "may not import sae_train"),
        ("sae_train.export", "from steerd.engine.engine import Engine", "may not import steerd.engine"),
        ("steerd.engine.engine", "import grpc", "grpc belongs to"),
        ("steerd.engine.engine", "from google.protobuf import message", "google belongs to"),
        ("steerd.server.service", "from prometheus_client import Counter", "prometheus_client belongs to"),
        (
            "steerd.host.host_model",
            "from transformers.generation.continuous_batching import ContinuousBatchingManager",
            "belongs to steerd.engine.batch_processor",
        ),
        ("steerd.config", "def f():\n    import torch", "must stay quick to import"),
        ("steerd.sae.sae_file", "from .folding import fold_b_dec", "relative path"),
        ("steerd.surprise", "import os", "no part of the import table"),
    ],
)
def test_a_planted_violation_is_found(module: str, source: str, complaint: str) -> None:
    assert any(complaint in found for found in violations(module, source))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("steerd.server.parse", "from steerd.engine.request import GenerationRequest\nimport grpc"),
        ("steerd.sae.sae_file", "from steerd.sae.autoencoder import SparseAutoencoder\nimport torch"),
        (
            "steerd.steering.loaded_saes",
            "from steerd.sae import autoencoder\nfrom steerd.errors import NotFound",
        ),
        ("steerd.engine.continuous_batching", "from transformers.generation import continuous_batching"),
        ("benchmarks.overhead", "from steerd.app import build_app\nimport grpc"),
    ],
)
def test_an_allowed_import_is_left_alone(module: str, source: str) -> None:
    assert violations(module, source) == []


def test_a_planted_re_export_is_found() -> None:
    assert init_violations('"""A map."""\n') == []
    assert init_violations('"""A map."""\nfrom steerd.errors import SteerdError\n') != []
    assert init_violations("") != []
