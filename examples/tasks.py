"""Compress regressions of a table and of series, and a multi-label network of series, through a service of their own.

``make demo-tasks`` runs it. What each network learns is told by its data set: nobody says so.
"""

import tempfile
import time
from pathlib import Path

import winnow
from compress import compress
from demo import service
from series import save_countries, save_countries_model, save_motions, save_motions_model
from tables import save_patients, save_patients_model

PRUNE = {"method": "prune", "granularity": "channel", "amount": 0.5, "round_to": 8}
FINETUNE = {"method": "finetune", "epochs": 5, "learning_rate": 0.01}
DISTILL = {"method": "distill", "epochs": 10, "learning_rate": 0.02, "batch_size": 32}
QUANTIZE = {"method": "quantize", "scheme": "static"}


def main() -> None:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="winnow-tasks-") as name:
        folder = Path(name)
        with service(folder) as (url, key), winnow.Client(url, key) as client:
            print("regression: how far diabetes comes within a year, of 442 patients …", flush=True)
            model, data = folder / "patients.pt2", folder / "patients.npz"
            save_patients(data)
            save_patients_model(data, model)
            compress(client, model, data, folder / "small.onnx", (PRUNE, FINETUNE, QUANTIZE), max_drop=0.1)
            print("regression: death rates of 201 countries by 84 days of their cases …", flush=True)
            model, data = folder / "countries.pt2", folder / "countries.npz"
            save_countries(data)
            save_countries_model(data, model)
            compress(client, model, data, folder / "small.onnx", (PRUNE, DISTILL, QUANTIZE), max_drop=0.1)
            print("multi-label: whether a watch moves, gets on, and is worn by one soon out of breath …", flush=True)
            model, data = folder / "motions.pt2", folder / "motions.npz"
            save_motions(data)
            save_motions_model(data, model)
            longer = {"epochs": 25, "batch_size": 16, "class_weights": "balanced"}
            recipe = (PRUNE, FINETUNE | longer, QUANTIZE)
            compress(client, model, data, folder / "small.onnx", recipe, max_drop=0.03)
    print(f"done in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
