"""Compress a regression and a multi-label network through a service started for the occasion.

``make demo-tasks`` runs it. What each network learns is told by its data set: nobody says so.
"""

import tempfile
import time
from pathlib import Path

import winnow
from compress import compress
from demo import service
from tables import save_patients, save_patients_model, save_pictures, save_pictures_model

PRUNE = {"method": "prune", "granularity": "channel", "amount": 0.5, "round_to": 8}
FINETUNE = {"method": "finetune", "epochs": 5, "learning_rate": 0.01}
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
            print("multi-label: which digits stand in a picture of two, 2,500 pictures …", flush=True)
            model, data = folder / "pictures.pt2", folder / "pictures.npz"
            save_pictures(data)
            save_pictures_model(data, model)
            recipe = (PRUNE, FINETUNE | {"class_weights": "balanced"}, QUANTIZE)
            compress(client, model, data, folder / "small.onnx", recipe, max_drop=0.03)
    print(f"done in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
