"""Jobs on a Hugging Face folder over HTTP, from the archive to files that answer as the network did."""

import io
import zipfile

import numpy as np
import onnxruntime
import pytest
import torch
import transformers

from tests.compression import checkpoints
from tests.e2e.service import OCTETS

LAYERS, LENGTH, ROWS = 3, 12, 100
QUANTIZE = {"method": "quantize", "scheme": "dynamic"}
DEPTH = {"method": "distill", "student": {"depth": 0.67}, "epochs": 1, "learning_rate": 0.001}


@pytest.fixture(scope="module")
def original():
    config = transformers.BertConfig(
        vocab_size=checkpoints.TOKENS, hidden_size=64, num_hidden_layers=LAYERS, num_attention_heads=4,
        intermediate_size=128, max_position_embeddings=32, num_labels=3,
    )  # fmt: skip
    return checkpoints.shaken(transformers.BertForSequenceClassification(config))


@pytest.fixture(scope="module")
def uploads(service, original, tmp_path_factory):
    """Upload the folder, and rows whose labels are what ``transformers`` itself makes of them."""
    folder = tmp_path_factory.mktemp("huggingface")
    original.save_pretrained(folder / "bert")
    (folder / "bert" / "vocab.txt").write_text("[PAD]\n")
    arrays = {}
    for seed, split in enumerate(("train", "validation")):
        ids, mask = checkpoints.texts(ROWS, LENGTH, seed=seed)
        with torch.no_grad():
            labels = original(input_ids=ids, attention_mask=mask).logits.argmax(1)
        named = {"input_ids": ids, "attention_mask": mask, "y": labels}
        arrays |= {f"{split}.{name}": values.numpy() for name, values in named.items()}
    np.savez(folder / "rows.npz", **arrays)
    archive = checkpoints.pack(folder / "bert", folder / "bert.zip", root="bert/")
    return service.upload("models", archive), service.upload("datasets", folder / "rows.npz")


def test_the_model_is_shown_as_it_is(service, uploads, original):
    shown = service.get(f"models/{uploads[0]}")
    assert (shown["format"], shown["trainable"]) == ("huggingface", True)
    assert shown["parameters"] == sum(parameter.numel() for parameter in original.parameters())
    assert shown["macs"] > shown["parameters"]
    inputs = {spec["name"]: (spec["dtype"], spec["shape"][0]) for spec in shown["signature"]["inputs"]}
    assert inputs == {"input_ids": ("int64", "batch"), "attention_mask": ("int64", "batch")}
    assert [spec["shape"] for spec in shown["signature"]["outputs"]] == [["batch", 3]]
    layers = {row["name"]: row for row in service.get(f"models/{uploads[0]}/layers")["items"]}
    hidden = layers["bert.encoder.layer.2.intermediate.dense"]
    assert (hidden["prunable"], hidden["quantizable"]) == (True, True)
    assert hidden["group"] is not None


@pytest.mark.long
@pytest.mark.parametrize(("recipe", "smaller"), [([DEPTH], 1.3), ([DEPTH, QUANTIZE], 2)])
def test_a_job_compresses_it_and_its_file_takes_texts_of_any_length(service, uploads, recipe, smaller):
    ended = service.wait(job := service.submit(*uploads, recipe=recipe))
    assert ended["state"] == "succeeded", ended["failure"]
    report = service.get(f"jobs/{job}/report")
    # The labels are what transformers said: what was read says the same of every row.
    assert report["baseline"]["metrics"]["accuracy"]["value"] == 1
    assert report["delta"]["macs_ratio"] > 1.4
    assert report["delta"]["size_ratio"] > smaller
    files = {item["name"]: item for item in service.get(f"jobs/{job}/artifacts")["items"]}
    session = onnxruntime.InferenceSession(service.client.get(f"artifacts/{files['model.onnx']['id']}/content").content)
    for length in (LENGTH, LENGTH + 9):
        ids, mask = checkpoints.texts(5, length, seed=7)
        (given,) = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
        assert given.shape == (5, 3)
        assert np.isfinite(given).all()


def test_an_archive_is_refused_by_what_is_wrong_with_it(service, original, tmp_path):
    folder = tmp_path / "own"
    original.save_pretrained(folder)
    checkpoints.edit_config(folder, auto_map={"AutoModel": "modeling.Mine"})
    path = checkpoints.pack(folder, tmp_path / "own.zip")
    posted = service.post("models", params={"name": "own"}, content=path.read_bytes(), headers=OCTETS)
    shown = service.get(f"models/{posted['id']}", params={"wait": 60})
    assert (shown["state"], shown["problem"]["code"]) == ("rejected", "unsupported_network")
    assert "auto_map" in shown["problem"]["detail"]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("pytorch_model.bin", b"\x80\x02}.")
    response = service.client.post("models", params={"name": "pickled"}, content=packed.getvalue(), headers=OCTETS)
    assert (response.status_code, response.json()["code"]) == (415, "unknown_format")
    assert "pytorch_model.bin" in response.json()["detail"]
