"""What a training step of Qwen3-VL costs on this machine's GPU: time, rows, share of peak, memory.

Random weights of the published sizes go through the trainer's own code (`workers.trainer.rank`: DeepSpeed ZeRO,
Liger, LoRA, gradient checkpointing, loaders that decode clips), each case in a process of its own. Prints a table and
writes `results/training_gpu.json` after each case. Runs where the trainer's CUDA lock is installed:
`python -m benchmarks.training_gpu [CASE …]`; a case is spelt `8B-lora-768-liger`, `2B-full-256`: size, what is trained,
visual tokens per temporal patch at most, whether with Liger. `tiny-full-20` goes through the same code on a CPU.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.parts import clips

RESULTS = Path(__file__).parent / "results" / "training_gpu.json"
CASES = tuple(
    f"{size}-{weights}-{tokens}{liger}"
    for size, weights in (("8B", "lora"), ("4B", "lora"), ("2B", "full"), ("2B", "lora"))
    for tokens in (768, 256)
    for liger in ("-liger", "")
)
PACKAGES = ("torch", "transformers", "deepspeed", "accelerate", "peft", "liger-kernel", "triton", "av")
#: What torch.distributed.run would set for the only process of a training.
ALONE = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}


def machine() -> dict[str, Any]:
    """The card, its measured bfloat16 matrix rate, and the versions."""
    import torch

    found: dict[str, Any] = {"cores": len(os.sched_getaffinity(0))}
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found |= {"gpu": properties.name, "gpu_bytes": properties.total_memory, "matmul_tflops": _matmul_tflops()}
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "absent"
    return found | {"versions": versions}


def _matmul_tflops(size: int = 8192, times: int = 20) -> float:
    """TFLOP/s of a square bfloat16 product of random numbers: a ceiling that this very card reaches."""
    import torch

    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(times):
        a @ b
    end.record()
    torch.cuda.synchronize()
    del a, b
    torch.cuda.empty_cache()
    return round(2 * size**3 * times / begin.elapsed_time(end) / 1e9, 1)


class Case:
    """A case in a process of its own, which imports its libraries at once and takes the GPU when `result` is asked."""

    def __init__(self, name: str, data: Path, work: Path, steps: int) -> None:
        import torch

        from workers.trainer.train import environment

        self.name = name
        work.mkdir()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.parts.step", name, str(data), str(work), str(steps)],
            env={**os.environ, **environment(1, torch.cuda.device_count()), **ALONE, "MASTER_PORT": free_port()},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def result(self) -> dict[str, Any]:
        """What the case found, or what ended it."""
        out, told = self._process.communicate("go\n")
        if self._process.returncode == 0:
            found: dict[str, Any] = json.loads(out.splitlines()[-1])
            return {"case": self.name, **found}
        last = told.splitlines()[-25:]
        sys.stderr.write("".join(f"{self.name}: {line}\n" for line in last))
        reasons = [line for line in last if "Error" in line] or [f"exit code {self._process.returncode}"]
        return {"case": self.name, "failed": reasons[-1][:300]}


def free_port() -> str:
    """A port on loopback that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def line(found: dict[str, Any]) -> str:
    """One row of the table."""
    if "failed" in found:
        return f"{found['case']:20} {found['failed'][:90]}"
    shares = [f"{100 * found[name]:5.1f}%" if found[name] is not None else "" for name in ("mfu", "hfu")]
    return (
        f"{found['case']:20} {found['row_tokens']:6} {found['step_seconds']['median']:7.3f} "
        f"{found['rows_per_second']:7.2f} {found['tokens_per_second']:8.0f} {shares[0]:>6} {shares[1]:>6} "
        f"{found['memory']['peak_reserved'] / 2**30:7.1f} {found['memory']['before_training'] / 2**30:7.1f} "
        f"{found['wait_share']:6.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=CASES)
    parser.add_argument("--steps", type=int, default=8, help="optimiser steps of a case; the first two warm up")
    parser.add_argument("--results", type=Path, default=RESULTS)
    asked = parser.parse_args()
    if importlib.util.find_spec("deepspeed") is None:
        sys.exit("deepspeed is missing: run this with a Python that has workers/trainer/requirements-cuda.txt")
    asked.results.parent.mkdir(exist_ok=True)
    report: dict[str, Any] = {"machine": machine(), "cases": []}
    print(json.dumps(report["machine"]))
    print("case                 tokens  s/step  rows/s tokens/s    MFU    HFU peakGiB restGiB  waits", flush=True)
    with tempfile.TemporaryDirectory(prefix="training-") as folder:
        data = clips.write(Path(folder) / "rows")
        waiting = [Case(name, data, Path(folder) / name, asked.steps) for name in asked.cases[:1]]
        for following in [*asked.cases[1:], None]:
            case = waiting.pop()
            if following is not None:
                waiting.append(Case(following, data, Path(folder) / following, asked.steps))
            report["cases"].append(case.result())
            print(line(report["cases"][-1]), flush=True)
            asked.results.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
