import base64
import hashlib

import pytest

from app.db import models
from app.domain.errors import UnsupportedNetwork
from tests.factories import archive, layer, npz, pt2, safetensors, tar
from tests.serving import OCTETS, pointers, problem, slowly

FILES = [("models", "pt2", pt2), ("datasets", "npz", npz), ("datasets", "safetensors", safetensors)]


@pytest.mark.parametrize(("noun", "format_", "make"), FILES)
@pytest.mark.parametrize("send", [bytes, slowly], ids=["announced", "chunked"])
def test_an_upload_is_kept_told_apart_and_inspected(project, noun, format_, make, send):
    content = make()
    before = project.kept()
    response = project.upload(noun, send(content), params={"name": "first try", "format": format_})
    assert response.status_code == 201
    item = response.json()
    assert response.headers["location"] == f"/api/v1/{noun}/{item['id']}"
    assert project.client.get(response.headers["location"].removeprefix("/api/v1/")).json() == item
    digest = hashlib.sha256(content)
    assert (item["name"], item["format"], item["state"]) == ("first try", format_, "validating")
    assert (item["size_bytes"], item["sha256"]) == (len(content), digest.hexdigest())
    assert item["problem"] is None
    assert item["created_at"].endswith("Z")
    assert project.holds(content)
    assert project.kept()[-1] == before[-1] + 1  # its inspection was asked for
    downloaded = project.client.get(f"{noun}/{item['id']}/content")
    assert downloaded.content == content
    assert f'filename="first try.{format_}"' in downloaded.headers["content-disposition"]


@pytest.mark.parametrize(("pack", "suffix"), [(archive, "zip"), (tar, "tar")])
def test_a_download_is_named_as_what_it_is_and_ends_so_once(project, pack, suffix):
    content = pack("encoder/config.json", "encoder/model.safetensors")
    for name in ("encoder", f"encoder.{suffix}"):
        item = project.client.post("models", params={"name": name}, content=content, headers=OCTETS).json()
        assert item["format"] == "huggingface"
        header = project.client.head(f"models/{item['id']}/content").headers["content-disposition"]
        assert f'filename="encoder.{suffix}"' in header


def test_a_digest_that_matches_is_accepted_beside_others(project):
    content = pt2()
    digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
    header = f"sha-512=:AAAA:, sha-256=:{digest}:"
    assert project.upload("models", content, headers={"Repr-Digest": header}).status_code == 201


def test_a_content_is_kept_once_and_goes_with_the_last_that_refers_to_it(project):
    content = pt2()
    first, second = (project.upload("models", content).json()["id"] for _ in range(2))
    assert project.kept()[0] == 1
    assert project.client.delete(f"models/{first}").status_code == 204
    assert project.client.get(f"models/{second}/content").content == content
    assert project.client.delete(f"models/{second}").status_code == 204
    assert project.kept()[0] == 0
    problem(project.client.get(f"models/{second}"), 404, "not_found")


def test_what_a_job_refers_to_stays(project):
    model, dataset = project.add_model(), project.add_dataset()
    job = project.queued(model_id=model, dataset_id=dataset)
    for path in (f"models/{model}", f"datasets/{dataset}"):
        problem(project.client.delete(path), 409, "in_use")
    problem(project.client.delete(f"jobs/{job}"), 409, "conflict")
    project.client.post(f"jobs/{job}:cancel")
    for path in (f"jobs/{job}", f"models/{model}", f"datasets/{dataset}"):
        assert project.client.delete(path).status_code == 204
    assert project.kept()[:4] == (0, 0, 0, 0)


def test_lists_are_paged_newest_first_and_filtered(project):
    ids = [project.upload("models", pt2()).json()["id"] for _ in range(3)]
    with project.server.parts.sessions.begin() as session:
        models.finish_inspection(session, ids[1], UnsupportedNetwork("It loops.").failure())
    first = project.client.get("models", params={"limit": 2}).json()
    last = project.client.get("models", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert [item["id"] for item in (*first["items"], *last["items"])] == ids[::-1]
    assert last["next_cursor"] is None
    whole = project.client.get("models", params={"limit": 3}).json()
    assert whole["next_cursor"] is None
    rejected = project.client.get("models", params={"state": "rejected"}).json()["items"]
    assert [item["id"] for item in rejected] == [ids[1]]
    assert rejected[0]["problem"]["code"] == "unsupported_network"
    assert rejected[0]["problem"]["class"] == "user"


def test_a_cursor_of_another_list_is_refused(project):
    cursor = project.upload("models", pt2()).json()["id"]
    assert pointers(problem(project.client.get("datasets", params={"cursor": cursor}), 422, "validation_failed")) == [
        "/query/cursor"
    ]


def test_a_ready_model_shows_what_was_found_and_its_layers(project):
    model = project.add_model(layers=[layer(), layer(name="fc", op="linear", prunable=False, reason="an output")])
    item = project.client.get(f"models/{model}").json()
    assert (item["state"], item["trainable"], item["parameters"], item["macs"]) == ("ready", True, 144, 9216)
    assert item["signature"]["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["batch", 1, 8, 8]}]
    assert item["origin"] is None
    layers = project.client.get(f"models/{model}/layers").json()["items"]
    assert [found["name"] for found in layers] == ["conv1", "fc"]
    assert {"op", "weight_shape", "parameters", "macs", "prunable", "quantizable", "group"} <= layers[0].keys()


def test_a_ready_data_set_shows_what_was_found(project):
    item = project.client.get(f"datasets/{project.add_dataset()}").json()
    assert item["splits"] == {"train": {"samples": 1437}, "validation": {"samples": 360}}
    assert item["fields"][0] == {"name": "x", "dtype": "float32", "shape": [1, 8, 8]}
    assert item["classes"] == 10


def test_names_of_every_language_come_back_in_the_download(project):
    response = project.client.post("models", params={"name": 'mo"dèle 模型/..'}, content=pt2(), headers=OCTETS)
    item = response.json()
    assert item["name"] == 'mo"dèle 模型/..'
    header = project.client.get(f"models/{item['id']}/content").headers["content-disposition"]
    assert "filename*=UTF-8''mo%22d%C3%A8le%20%E6%A8%A1%E5%9E%8B%2F...pt2" in header
    assert '"mo"' not in header
