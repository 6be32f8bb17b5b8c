"""How long it takes until something can be done: importing, the command line, and a server's start.

Each is a process of its own, all in turn, so that the files are in the machine's memory for all of them. The
server's start, to its health check's SERVING, is next to a plain script of transformers that imports, loads
the same host and generates one token. The server's holds more: three SAEs with notes, two ports, and the
check that steps of packed texts give the host's own rows.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median

from benchmarks.report import Report, parser_of, report_for
from benchmarks.serving_process import serve_load
from steerd.client_messages import GenerateCall
from steerd.host.default_host import default_host_folder

NAME = "startup"

IMPORT_BOUND = 0.1
START_BOUND = 1.5

PLAIN_SCRIPT = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
host = AutoModelForCausalLM.from_pretrained(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
host.generate(**tokenizer("Hello", return_tensors="pt"), max_new_tokens=1, pad_token_id=0)
"""


def main() -> None:
    """Measure, print, write."""
    options = _options()
    report = report_for(NAME, options)
    found: dict[str, list[float]] = {name: [] for name in _SYSTEMS}
    for _ in range(options.trials):
        for name, run in _SYSTEMS.items():
            found[name].append(run())
    report_starts(report, found)
    report.finish()


def report_starts(report: Report, found: dict[str, list[float]]) -> None:
    """The seconds of every system, and what the targets say of their medians."""
    report.add_rows(
        f"Seconds, {len(found['python'])} trials of each in turn",
        [
            {"what": name, "median": median(seconds), "least": min(seconds), "most": max(seconds)}
            for name, seconds in found.items()
        ],
    )
    typical = {name: median(seconds) - median(found["python"]) for name, seconds in found.items()}
    torch = typical["import torch"]
    report.at_most("import steerd, of import torch", typical["import steerd"] / torch, IMPORT_BOUND)
    report.at_most("import steerd.client, of import torch", typical["import steerd.client"] / torch, 1.0)
    plain = median(found["transformers, to its first token"])
    report.at_most("steerd serve, of a plain script", median(found["steerd serve"]) / plain, START_BOUND)


def _python(*arguments: str) -> Callable[[], float]:
    def run() -> float:
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
        )
        return time.perf_counter() - started

    return run


def _plain_script() -> float:
    return _python("-c", PLAIN_SCRIPT, str(default_host_folder()))()


def _serve() -> float:
    return serve_load("", [GenerateCall(prompt="Hello", max_new_tokens=1)]).seconds_to_serving


_SYSTEMS: dict[str, Callable[[], float]] = {
    "python": _python("-c", "pass"),
    "import steerd": _python("-c", "import steerd"),
    "import steerd.client": _python("-c", "import steerd.client"),
    "steerd --help": _python("-m", "steerd", "--help"),
    "import torch": _python("-c", "import torch"),
    "import transformers' models": _python("-c", "from transformers import LlamaForCausalLM"),
    "import steerd.app": _python("-c", "import steerd.app"),
    "transformers, to its first token": _plain_script,
    "steerd serve": _serve,
}


def _options() -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument("--trials", type=int, help="of each (default: 5, with --quick 1)")
    options = parser.parse_args()
    options.trials = options.trials or (1 if options.quick else 5)
    return options


if __name__ == "__main__":
    main()
