"""What pruning a network of BERT-base's size costs: seconds, and memory as a multiple of the network's own.

``python -m benchmarks.pruning_size`` prints both. The bounds are 60 seconds and 3 times, on two cores; where other work
shares them, the processors' own seconds tell more than the clock. The network has
random weights, which cost what trained ones do; the step runs in a process of its own, on a file as a user uploads it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from app.domain.steps.prune import PruneSpec
from workers.compression.counting import count_parameters
from workers.compression.formats import pt2
from workers.compression.network import Network
from workers.compression.pruning import prune
from workers.compression.step import Context

SECONDS, TIMES = 60, 3
TOKENS = 128


def write_bert(path: Path) -> None:
    """Export BERT-base for two classes, any number of rows of 128 tokens."""
    import transformers

    torch.manual_seed(0)
    config = transformers.BertConfig(return_dict=False)
    network: torch.nn.Module = transformers.BertForSequenceClassification(config)
    network.eval()
    tokens = torch.randint(config.vocab_size, (2, TOKENS))
    rows = {0: torch.export.Dim("batch")}
    with torch.no_grad():
        exported = torch.export.export(
            network,
            (),
            {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)},
            dynamic_shapes={"input_ids": rows, "attention_mask": rows},
        )
    with path.open("wb") as file:
        torch.export.save(exported, file)


def measure(path: Path, folder: Path) -> dict[str, float]:
    """Prune the file's network in this process by half, as a job without a choice of its own would."""
    bare = _status("VmRSS")
    network = pt2.load(path)
    context = Context(network, None, 0, torch.device("cpu"), lambda _: None, folder)  # type: ignore[arg-type]  # l2 reads no rows
    loaded = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to what is resident now
    began, worked = time.perf_counter(), time.process_time()
    result = prune.run(network, PruneSpec(method="prune", criterion="l2", amount=0.5), context)
    seconds, peak = time.perf_counter() - began, _status("VmHWM")
    return {
        "seconds": seconds,
        "cpu_seconds": time.process_time() - worked,
        "network": _weigh(network),
        "growth": peak - loaded,
        "peak": peak - bare,
        "parameters_before": count_parameters(network),
        "parameters_after": count_parameters(result.network),
        "removed": result.details["removed_channels"],
        "prunable": result.details["prunable_channels"],
    }


def _weigh(network: Network) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in network.module.state_dict().values())


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file", type=Path, help="prune this .pt2 file in this process and print JSON")
    file = parser.parse_args().file
    with tempfile.TemporaryDirectory(prefix="winnow-size-") as name:
        if file is not None:
            print(json.dumps(measure(file, Path(name))))
            return
        path = Path(name) / "bert.pt2"
        write_bert(path)
        command = [sys.executable, "-m", "benchmarks.pruning_size", "--file", str(path)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    whole = found["network"]
    print(f"network {whole / 1e6:.0f} MB, {found['parameters_before'] / 1e6:.1f} M parameters; "
          f"{found['removed']} of {found['prunable']} channels removed, "
          f"{found['parameters_after'] / 1e6:.1f} M parameters left")  # fmt: skip
    print(f"time {found['seconds']:.1f} s, of processors {found['cpu_seconds']:.1f} s; bound {SECONDS} s")
    print(f"memory at the peak {found['peak'] / whole:.2f} times the network, itself and its loading counted; "
          f"bound {TIMES}; of this the step {found['growth'] / whole:.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
