"""The classes of ``transformers`` that people export, from small configurations with random weights."""

import torch
import transformers
from torch import nn

TEXT = {"vocab_size": 60}
IMAGE = {"image_size": 16, "num_labels": 10}


class Text(nn.Module):
    """Give one plain tensor for tokens and their mask."""

    def __init__(self, network, output):
        super().__init__()
        self.network, self.output = network, output

    def forward(self, input_ids, attention_mask):
        return self.network(input_ids=input_ids, attention_mask=attention_mask)[self.output]


class Image(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, pixel_values):
        return self.network(pixel_values=pixel_values).logits


def _bert():
    return transformers.BertConfig(
        **TEXT, hidden_size=16, num_hidden_layers=1, num_attention_heads=4, intermediate_size=24,
        max_position_embeddings=16, num_labels=3,
    )  # fmt: skip


def bert():
    return Text(transformers.AutoModelForSequenceClassification.from_config(_bert()), "logits")


def bert_encoder():
    network = transformers.AutoModel.from_config(_bert(), attn_implementation="eager")
    return Text(network, "last_hidden_state")


def distilbert():
    config = transformers.DistilBertConfig(
        **TEXT, dim=16, n_layers=1, n_heads=4, hidden_dim=24, max_position_embeddings=16, num_labels=3
    )
    return Text(transformers.AutoModelForSequenceClassification.from_config(config), "logits")


def gpt2():
    config = transformers.GPT2Config(
        **TEXT, n_embd=16, n_layer=1, n_head=4, n_positions=16, use_cache=False, bos_token_id=1, eos_token_id=1
    )
    return Text(transformers.AutoModelForCausalLM.from_config(config), "logits")


def llama():
    config = transformers.LlamaConfig(
        **TEXT, hidden_size=32, num_hidden_layers=1, num_attention_heads=8, num_key_value_heads=4,
        intermediate_size=24, max_position_embeddings=16, use_cache=False,
    )  # fmt: skip
    return Text(transformers.AutoModelForCausalLM.from_config(config), "logits")


def vit():
    config = transformers.ViTConfig(
        **IMAGE, hidden_size=16, num_hidden_layers=1, num_attention_heads=4, intermediate_size=24, patch_size=4
    )
    return Image(transformers.AutoModelForImageClassification.from_config(config))


def swin():
    """Two stages: windows at rest and shifted, then merged patches."""
    config = transformers.SwinConfig(
        **IMAGE, patch_size=2, embed_dim=8, depths=[2, 1], num_heads=[2, 4], window_size=4, mlp_ratio=2
    )
    return Image(transformers.AutoModelForImageClassification.from_config(config))


def resnet():
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[16, 24], depths=[1, 1], layer_type="bottleneck", num_labels=10
    )
    return Image(transformers.AutoModelForImageClassification.from_config(config))


def shaken(module, seed=0):
    """Draw every weight anew, so that no norm is an identity and no output indifferent to a layer."""
    torch.manual_seed(seed)
    for name, parameter in module.named_parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=(parameter.numel() / parameter.shape[0]) ** -0.5)
        elif name.endswith("bias"):
            nn.init.normal_(parameter, std=0.3)
        else:
            nn.init.uniform_(parameter, 0.5, 1.5)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(part.running_mean, std=0.3)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
    return module.eval()
