"""Jobs on data sets as people have them, a folder of images and a table, over HTTP; the folder comes in pieces."""

import numpy as np
import pytest
from tusclient.client import TusClient

from tests.compression.digits import TRAIN_ROWS, digits, write_network
from tests.compression.folders import NAMES, images, write_table, write_zip
from tests.e2e.service import INSPECTION_SECONDS

RECIPE = [{"method": "prune", "amount": 0.1}]
ROWS = 500


@pytest.fixture(scope="module")
def splits():
    x, y = digits()
    return {"train": (x[:ROWS], y[:ROWS]), "validation": (x[TRAIN_ROWS:], y[TRAIN_ROWS:])}


@pytest.fixture(scope="module")
def model(service, tmp_path_factory):
    path = tmp_path_factory.mktemp("network") / "digits.pt2"
    write_network(path, epochs=4)
    return service.upload("models", path)


def inspected(service, item):
    shown = service.get(f"datasets/{item['id']}", params={"wait": INSPECTION_SECONDS // 2})
    assert shown["state"] == "ready", shown["problem"]
    return shown


@pytest.mark.long
def test_a_network_is_compressed_on_a_folder_of_images_and_on_a_table(service, model, splits, tmp_path):
    write_zip(tmp_path / "digits.zip", images(splits))
    write_table(tmp_path / "digits.parquet", splits)
    client = TusClient(str(service.client.base_url.join("uploads")), headers=dict(service.client.headers))
    with (tmp_path / "digits.zip").open("rb") as file:
        uploader = client.uploader(file_stream=file, chunk_size=100_000)
        uploader.upload()
    body = {"name": "folder", "upload_id": uploader.url.rpartition("/")[2], "preprocessing": {"color": "gray"}}
    folder = inspected(service, service.post("datasets", json=body))
    table = service.get(f"datasets/{service.upload('datasets', tmp_path / 'digits.parquet')}")
    for shown, format_ in ((folder, "zip"), (table, "parquet")):
        assert shown["format"] == format_
        assert shown["splits"] == {split: {"samples": len(y)} for split, (_, y) in splits.items()}
        assert shown["fields"] == [
            {"name": "x", "dtype": "float32", "shape": [1, 8, 8]},
            {"name": "y", "dtype": "int64", "shape": []},
        ]
        assert (shown["classes"], shown["class_names"]) == (10, list(NAMES))
    assert (folder["preprocessing"]["color"], table["preprocessing"]) == ("gray", None)
    jobs = [service.submit(model, shown["id"], recipe=RECIPE) for shown in (folder, table)]
    accuracies = []
    for job in jobs:
        ended = service.wait(job)
        assert ended["state"] == "succeeded", ended["failure"]
        report = service.get(f"jobs/{job}/report")
        assert [found["name"] for found in report["classes"]] == list(NAMES)
        assert report["data"]["validation"] + report["data"]["overlap"] == len(splits["validation"][1])
        accuracies.append(report["baseline"]["metrics"]["accuracy"]["value"])
        page = service.client.get(f"jobs/{job}/report", headers={"Accept": "text/html"}).text
        assert f'<th scope="row">{NAMES[7]}</th>' in page
    # Both hold the same digits: 8 bits a level tell them as well as floats do.
    assert np.ptp(accuracies) < 0.02
    assert min(accuracies) > 0.8
