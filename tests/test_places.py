"""What a configuration needs of workers on other machines: all of it is looked at, of both models."""

from typing import Any

import pytest

from pipeline.config import RunConfig
from pipeline.options import find_flags
from pipeline.places import check_places_of_workers
from transforms.errors import ConfigError

DATAFLOW = [
    "--project=p", "--region=europe-west4", "--temp_location=gs://b/tmp", "--sdk_container_image=gcr.io/p/score:0.1.0",
]  # fmt: skip
FLAGS = {"flink": ["--flink_master=jobmanager:8081"], "dataflow-cpu": DATAFLOW, "dataflow-gpu": DATAFLOW}
RIVAL = {"model": {"path": "gs://b/next"}}


def check(profile: str, *, shared_disk: bool = False, **sections: Any) -> None:
    """Check a configuration whose own places are in a bucket."""
    values = {"model": {"path": "gs://b/model"}, "preprocess": {"value_range": "0_1"}, **sections}
    config = RunConfig.model_validate(values)
    flags = find_flags(profile, FLAGS[profile])
    check_places_of_workers(config, ["gs://b/photos"], "gs://b/out", flags, shared_disk=shared_disk)


@pytest.mark.parametrize("profile", sorted(FLAGS))
@pytest.mark.parametrize(
    ("sections", "what"),
    [
        ({"model": {"path": "/home/me/model"}}, "model.path /home/me/model"),
        ({"labels": {"path": "/home/me/l.txt"}}, "labels.path /home/me/l.txt"),
        ({"challenger": {"model": {"path": "/home/me/next"}}}, "challenger.model.path /home/me/next"),
        ({"challenger": {**RIVAL, "labels": {"path": "/home/me/l.txt"}}}, "challenger.labels.path /home/me/l.txt"),
        (
            {"challenger": {**RIVAL, "labels": {"thresholds": "/home/me/t.csv"}}},
            "challenger.labels.thresholds /home/me/t.csv",
        ),
    ],
)
def test_whatever_only_the_launcher_has_is_refused(profile: str, sections: dict[str, Any], what: str) -> None:
    """Before anything is loaded: workers would find it missing after the night has begun."""
    with pytest.raises(ConfigError) as caught:
        check(profile, **sections)
    assert str(caught.value).startswith(f"{what} is on this machine, and the workers are on others; ")
    if profile == "flink":
        check(profile, shared_disk=True, **sections)


def test_places_of_both_models_in_a_bucket_are_taken() -> None:
    """Labels that the challenger leaves out are those of the first model."""
    for profile in FLAGS:
        check(profile, labels={"path": "gs://b/l.txt"}, challenger=RIVAL)


@pytest.mark.parametrize(
    ("profile", "device", "message"),
    [
        ("dataflow-gpu", "cpu", "challenger.model.device is cpu, and the workers have GPUs, which would cost and do "),
        ("dataflow-cpu", "gpu", "challenger.model.device is gpu, and the workers of this job have no GPU; take --pro"),
    ],
)
def test_a_challenger_on_a_device_that_workers_do_not_have_is_refused(profile: str, device: str, message: str) -> None:
    """As the first model is."""
    with pytest.raises(ConfigError) as caught:
        check(profile, challenger={"model": {"path": "gs://b/next", "device": device}})
    assert str(caught.value).startswith(message)
