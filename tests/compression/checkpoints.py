"""Small networks of ``transformers`` as their users have them: saved by ``save_pretrained`` and packed."""

import json
import shutil
import tarfile
import zipfile

import torch
import transformers

from tests.compression.pretrained import shaken

TOKENS, PLACES = 60, 40
_TEXT = {
    "vocab_size": TOKENS, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 24,
    "max_position_embeddings": PLACES,
}  # fmt: skip


def sequence_classifier():
    config = transformers.BertConfig(**_TEXT | {"num_hidden_layers": 2}, num_labels=3)
    return transformers.BertForSequenceClassification(config)


def encoder():
    return transformers.BertModel(transformers.BertConfig(**_TEXT))


def token_classifier():
    return transformers.RobertaForTokenClassification(transformers.RobertaConfig(**_TEXT, num_labels=3))


def answerer():
    config = transformers.DistilBertConfig(
        vocab_size=TOKENS, dim=16, n_layers=1, n_heads=4, hidden_dim=24, max_position_embeddings=PLACES
    )
    return transformers.DistilBertForQuestionAnswering(config)


def masked():
    return transformers.DebertaV2ForSequenceClassification(transformers.DebertaV2Config(**_TEXT, num_labels=3))


def bottlenecked():
    """Make a network that exports with a fixed number of tokens alone."""
    config = transformers.MobileBertConfig(**_TEXT, embedding_size=16, intra_bottleneck_size=16)
    return transformers.MobileBertForSequenceClassification(config)


def text_and_image():
    images = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 24}
    config = transformers.SiglipConfig(vision_config=images | {"image_size": 16, "patch_size": 4}, text_config=_TEXT)
    return transformers.SiglipForImageClassification(config)


def language():
    config = transformers.GPT2Config(
        vocab_size=TOKENS, n_embd=16, n_layer=1, n_head=4, n_positions=PLACES, bos_token_id=1, eos_token_id=1
    )
    return transformers.GPT2LMHeadModel(config)


def decoder():
    config = transformers.LlamaConfig(**_TEXT | {"hidden_size": 32}, num_key_value_heads=2)
    return transformers.LlamaForCausalLM(config)


def vision_transformer():
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=4, intermediate_size=24, image_size=16, patch_size=4,
        num_labels=10,
    )  # fmt: skip
    return transformers.ViTForImageClassification(config)


def residual():
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=10)
    return transformers.ResNetForImageClassification(config)


def convnext():
    config = transformers.ConvNextConfig(
        hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, image_size=32, num_labels=10
    )
    return transformers.ConvNextForImageClassification(config)


def save(network, folder, **options):
    """Save the network with weights that no layer is an identity by."""
    shaken(network).save_pretrained(folder, **options)
    return network


def pack(folder, path, *, root="", compression=zipfile.ZIP_DEFLATED):
    """Put a folder's files into a zip, or into a tar where the path ends so."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    if path.suffix == ".tar":
        with tarfile.open(path, "w") as archive:
            archive.add(folder, arcname=root.rstrip("/") or ".")
        return path
    with zipfile.ZipFile(path, "w", compression) as archive:
        for file in files:
            archive.write(file, f"{root}{file.relative_to(folder).as_posix()}")
    return path


def edit_config(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def copy(folder, to):
    shutil.copytree(folder, to)
    return to


def texts(rows, length, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(rows, length, dtype=torch.int64)
    mask[0, length - 3 :] = 0
    # From 2 on: what stands for padding or a start would move the places of some.
    return torch.randint(2, TOKENS, (rows, length), generator=generator), mask


def images(rows, size, seed=0):
    return (torch.randn(rows, 3, size, size, generator=torch.Generator().manual_seed(seed)),)
