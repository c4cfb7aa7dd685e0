"""How images become rows is said in the query or in the JSON, and shown with the data set."""

import json

import pytest

from tests.factories import archive, npz
from tests.serving import pointers, problem

STEPS = {"resize": 256, "center_crop": [224, 224], "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
DEFAULTS = {"color": "rgb", "resize": None, "center_crop": None, "mean": [0.0], "std": [1.0], "layout": "chw"}


def pictures():
    return archive("train/cat/0.png", "train/dog/1.jpeg")


def test_steps_come_in_the_query_and_are_shown_with_their_defaults(project):
    query = {"preprocessing": json.dumps(STEPS), "format": "zip"}
    item = project.upload("datasets", pictures(), params=query).json()
    assert (item["format"], item["preprocessing"]) == ("zip", DEFAULTS | STEPS)
    assert (item["class_names"], item["classes"]) == (None, None)
    assert project.client.get(f"datasets/{item['id']}").json() == item


def test_without_steps_the_defaults_hold_for_images_and_tensors_have_none(project):
    assert project.upload("datasets", pictures()).json()["preprocessing"] == DEFAULTS
    assert project.upload("datasets", npz()).json()["preprocessing"] is None


@pytest.mark.usefixtures("unchanged")
def test_steps_for_tensors_are_refused(project):
    response = project.upload("datasets", npz(), params={"preprocessing": "{}"})
    assert pointers(problem(response, 422, "validation_failed")) == ["/preprocessing"]


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("text", "pointer"),
    [
        ('{"resize": 0}', "/query/preprocessing/resize"),
        ('{"flip": true}', "/query/preprocessing/flip"),
        ('{"std": [0]}', "/query/preprocessing"),
        ("{", "/query/preprocessing"),
        ("[]", "/query/preprocessing"),
    ],
)
def test_steps_that_make_no_sense_are_pointed_at(project, text, pointer):
    response = project.upload("datasets", pictures(), params={"preprocessing": text})
    assert pointers(problem(response, 422, "validation_failed"))[0] == pointer


def test_steps_in_the_json_are_pointed_at_too(project):
    body = {"name": "d", "upload_id": "upl_1", "preprocessing": {"layout": "NCHW"}}
    response = project.client.post("datasets", json=body)
    assert pointers(problem(response, 422, "validation_failed")) == ["/preprocessing/layout"]
