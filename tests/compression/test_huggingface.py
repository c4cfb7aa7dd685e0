"""Folders that ``save_pretrained`` writes become networks that give what ``transformers`` gives."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from app.domain.errors import CorruptFile, UnsafeFile, UnsupportedNetwork
from tests.compression import checkpoints
from workers.compression.admission import admit
from workers.compression.counting import count_parameters
from workers.compression.distillation.blocks import find_blocks
from workers.compression.formats import huggingface, pt2
from workers.compression.inspection import group_layers
from workers.sandbox import environment

ROOT = Path(__file__).parents[2]

TEXTS = {
    "sequence_classifier": ("logits",),
    "token_classifier": ("logits",),
    "answerer": ("start_logits", "end_logits"),
    "masked": ("logits",),
    "language": ("logits",),
    "decoder": ("logits",),
}
IMAGES = {"vision_transformer": 16, "residual": 224, "convnext": 32, "text_and_image": 16}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Make the folder of a network by its name, once."""
    made = {}

    def folder(name):
        if name not in made:
            path = tmp_path_factory.mktemp(name) / "folder"
            made[name] = checkpoints.save(getattr(checkpoints, name)(), path), path
        return made[name]

    return folder


@pytest.fixture(scope="module")
def classifier(folders, tmp_path_factory):
    """Give BERT as transformers has it, and as it was read."""
    original, folder = folders("sequence_classifier")
    return original, taken_in(checkpoints.pack(folder, tmp_path_factory.mktemp("packed") / "folder.zip"))


def taken_in(path):
    admit(path, "huggingface")
    return huggingface.load(path)


@pytest.mark.parametrize("name", TEXTS)
def test_texts_of_any_length_give_what_transformers_gives(name, request, folders, tmp_path):
    if name == "sequence_classifier":
        original, network = request.getfixturevalue("classifier")
    else:
        original, folder = folders(name)
        network = taken_in(checkpoints.pack(folder, tmp_path / "folder.zip"))
    assert [(spec.name, spec.dtype) for spec in network.signature.inputs] == [
        ("input_ids", "int64"),
        ("attention_mask", "int64"),
    ]
    assert tuple(spec.name for spec in network.signature.outputs) == tuple(TEXTS[name])
    assert any(layer.prunable for layer in group_layers(network))
    # RoBERTa's table of places keeps two for padding.
    assert network.dynamic[0][1].max == checkpoints.PLACES - 2 * (name == "token_classifier")
    for rows, length in ((3, 9), (1, 30)):
        ids, mask = checkpoints.texts(rows, length)
        with torch.no_grad():
            found = original(input_ids=ids, attention_mask=mask)
            given = network.module(ids, mask)
        given = given if isinstance(given, tuple) else (given,)
        assert len(given) == len(TEXTS[name])
        for output, ours in zip(TEXTS[name], given, strict=True):
            torch.testing.assert_close(ours, found[output], atol=1e-5, rtol=1e-5)


@pytest.mark.long  # MobileBERT is the one that is so, and exports twice
def test_a_network_that_exports_with_one_length_alone_takes_any_batch(folders, tmp_path):
    original, folder = folders("bottlenecked")
    network = taken_in(checkpoints.pack(folder, tmp_path / "folder.zip"))
    assert [spec.shape for spec in network.signature.inputs] == [("batch", checkpoints.PLACES)] * 2
    ids, mask = checkpoints.texts(3, checkpoints.PLACES)
    with torch.no_grad():
        found = original(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(network.module(ids, mask), found, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", IMAGES)
def test_images_give_what_transformers_gives(name, folders, tmp_path):
    original, folder = folders(name)
    network = taken_in(checkpoints.pack(folder, tmp_path / "folder.zip"))
    size = IMAGES[name]
    (spec,) = network.signature.inputs
    assert (spec.name, spec.dtype, spec.shape) == ("pixel_values", "float32", ("batch", 3, size, size))
    (pixels,) = checkpoints.images(3, size)
    with torch.no_grad():
        found = original(pixel_values=pixels).logits
        torch.testing.assert_close(network.module(pixels), found, atol=1e-5, rtol=1e-5)


def test_layers_keep_the_names_of_their_weights_and_lose_channels(classifier):
    original, network = classifier
    assert count_parameters(network) == sum(parameter.numel() for parameter in original.parameters())
    layers = {layer.name: layer for layer in group_layers(network)}
    assert {f"{name}.weight" for name in layers} <= set(original.state_dict())
    attention = "bert.encoder.layer.0.attention.self."
    groups = {layers[attention + part].group for part in ("query", "key")}
    assert len(groups) == 1
    assert None not in groups
    assert layers["classifier"].quantizable
    assert len(find_blocks(network)) == 3


def test_a_tar_with_a_folder_inside_and_other_files_is_read_alike(folders, tmp_path):
    original, folder = folders("encoder")
    other = checkpoints.copy(folder, tmp_path / "sentences")
    (other / "1_Pooling").mkdir()
    (other / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    (other / "vocab.txt").write_text("[PAD]\n")
    (other / "modeling_mine.py").write_text("raise SystemExit\n")
    (other / "nested").mkdir()
    (other / "nested" / "model.safetensors").write_bytes(b"no weights at all")
    packed = [checkpoints.pack(other, tmp_path / f"folder{suffix}", root="minilm/") for suffix in (".tar", ".zip")]
    rows = checkpoints.texts(2, 8)
    with torch.no_grad():
        found = original(input_ids=rows[0], attention_mask=rows[1]).last_hidden_state
    for path in packed:
        torch.testing.assert_close(taken_in(path).module(*rows), found, atol=1e-5, rtol=1e-5)


def test_shards_are_put_together(folders, tmp_path):
    original, _ = folders("language")
    original.save_pretrained(tmp_path / "sharded", max_shard_size="8KB")
    assert len(list((tmp_path / "sharded").glob("model-*.safetensors"))) > 1
    rows = checkpoints.texts(2, 8)
    network = taken_in(checkpoints.pack(tmp_path / "sharded", tmp_path / "folder.zip"))
    with torch.no_grad():
        found = original(input_ids=rows[0], attention_mask=rows[1]).logits
    torch.testing.assert_close(network.module(*rows), found, atol=1e-5, rtol=1e-5)


def test_halves_are_widened_exactly(tmp_path):
    network = checkpoints.save(checkpoints.sequence_classifier().bfloat16(), tmp_path / "halves")
    read = taken_in(checkpoints.pack(tmp_path / "halves", tmp_path / "folder.zip"))
    rows = checkpoints.texts(2, 8)
    with torch.no_grad():
        found = network.float()(input_ids=rows[0], attention_mask=rows[1]).logits
    torch.testing.assert_close(read.module(*rows), found, atol=1e-5, rtol=1e-5)
    assert {parameter.dtype for parameter in read.module.parameters()} == {torch.float32}


def test_the_size_of_images_is_told_by_what_prepares_them(folders, tmp_path):
    _, folder = folders("residual")
    other = checkpoints.copy(folder, tmp_path / "sized")
    (other / "preprocessor_config.json").write_text('{"size": {"shortest_edge": 40}, "crop_size": 32}')
    network = taken_in(checkpoints.pack(other, tmp_path / "folder.zip"))
    assert network.signature.inputs[0].shape == ("batch", 3, 32, 32)


def test_what_was_read_is_written_and_read_again(classifier, tmp_path):
    _, network = classifier
    pt2.save(network, tmp_path / "model.pt2")
    admit(tmp_path / "model.pt2", "pt2")
    again = pt2.load(tmp_path / "model.pt2")
    assert again.with_outputs(["logits"]).signature == network.signature
    rows = checkpoints.texts(2, 11)
    assert torch.equal(again.module(*rows), network.module(*rows))


def refusal(folder, tmp_path, error):
    path = checkpoints.pack(folder, tmp_path / "folder.zip")
    with pytest.raises(error) as found:
        taken_in(path)
    return found.value


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"model_type": "nonesuch"}, "no networks of the kind 'nonesuch'"),
        ({"architectures": ["GPT2Model"]}, "of the kind 'bert' there has"),
        ({"architectures": ["os.system"]}, "names the class os.system"),
        ({"architectures": ["BertForPreTraining"]}, "BertForSequenceClassification"),
        ({"is_encoder_decoder": True}, "an encoder with a decoder"),
        ({"architectures": ["BertForMaskedLM"]}, "no place for the weights 'bert.pooler.dense.bias'"),
        ({"hidden_act": "nonesuch"}, "cannot build BertForSequenceClassification from config.json"),
    ],
)
def test_what_transformers_does_not_know_is_refused_by_name(fields, said, folders, tmp_path):
    folder = checkpoints.copy(folders("sequence_classifier")[1], tmp_path / "other")
    checkpoints.edit_config(folder, **fields)
    error = refusal(folder, tmp_path, UnsupportedNetwork)
    assert said in error.detail
    assert error.hint


def test_weights_must_be_those_that_the_configuration_asks_for(folders, tmp_path):
    folder = checkpoints.copy(folders("sequence_classifier")[1], tmp_path / "lacking")
    weights = load_file(folder / "model.safetensors")
    weights.pop("bert.encoder.layer.1.output.dense.weight")
    save_file(weights, folder / "model.safetensors")
    error = refusal(folder, tmp_path, CorruptFile)
    assert "lacks the weights 'bert.encoder.layer.1.output.dense.weight'" in error.detail
    other = checkpoints.copy(folders("sequence_classifier")[1], tmp_path / "wider")
    checkpoints.edit_config(other, intermediate_size=32)
    error = refusal(other, tmp_path, CorruptFile)
    assert "has the shape [24]; by config.json it is [32]" in error.detail


def test_what_the_outputs_do_not_need_may_be_missing(folders, tmp_path):
    folder = checkpoints.copy(folders("encoder")[1], tmp_path / "unpooled")
    weights = load_file(folder / "model.safetensors")
    save_file({name: it for name, it in weights.items() if "pooler" not in name}, folder / "model.safetensors")
    assert taken_in(checkpoints.pack(folder, tmp_path / "folder.zip")).signature.outputs[0].shape[2] == 16


def test_a_configuration_that_asks_for_more_than_there_is_is_refused_before_it_is_built(folders, tmp_path):
    folder = checkpoints.copy(folders("sequence_classifier")[1], tmp_path / "large")
    checkpoints.edit_config(folder, type_vocab_size=30_000, hidden_size=20_000, num_attention_heads=4)
    error = refusal(folder, tmp_path, UnsafeFile)
    assert "far more than its weights hold" in error.detail


WATCHED = """
import os, sys

seen = []

def watch(event, arguments):
    if event.startswith("socket.") and event not in {"socket.__new__", "socket.gethostname"}:
        seen.append((event, *map(str, arguments[1:])))
    writes = event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if writes and isinstance(path := arguments[0], str):
        if not path.startswith((os.environ["TMPDIR"], "/dev/", "/proc/")) and "__pycache__" not in path:
            seen.append((event, path))

sys.addaudithook(watch)
from pathlib import Path
from workers.compression.formats import huggingface

huggingface.load(Path(sys.argv[1]))
print(seen)
"""


@pytest.mark.long  # a process of its own
def test_reading_asks_nothing_of_a_network_and_writes_nothing_outside_its_folder(folders, tmp_path):
    path = checkpoints.pack(folders("sequence_classifier")[1], tmp_path / "folder.zip")
    scratch = tmp_path / "scratch"
    variables = environment(tmp_path, threads=1) | {"TMPDIR": str(scratch), "PYTHONPATH": str(ROOT)}
    scratch.mkdir()
    result = subprocess.run(
        [sys.executable, "-c", WATCHED, str(path)], capture_output=True, text=True, check=False, env=variables
    )
    assert result.stdout.split("\n")[-2:] == ["[]", ""], result.stdout + result.stderr
    assert [path for path in scratch.iterdir() if "inductor" not in path.name] == []  # of torch, and empty
