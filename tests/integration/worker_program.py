"""Score two photos on a worker in a container: worker_program.py IMAGE CONFIG PHOTO MISSING OUTPUT.

A program of its own: what stands in __main__ is pickled whole, and the worker has no tests.
"""

import json
import os
import sys

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, PortableOptions
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
from apache_beam.transforms.environments import DockerEnvironment

from pipeline.config import load_config
from pipeline.graph import ScoreImages


def main(image: str, config: str, photo: str, missing: str, output: str) -> None:
    """Run the pipeline; every row says who made it."""
    # A remote runner by name, so that files are staged as for one: boot asks in an older way when there are none.
    flags = ["--runner=PortableRunner", "--environment_type=DOCKER", f"--environment_config={image}"]
    options = PipelineOptions(flags)
    runner = FnApiRunner(default_environment=DockerEnvironment.from_options(options.view_as(PortableOptions)))

    def tell(kind: str, path: str, what: object) -> str:
        return json.dumps({"kind": kind, "path": path, "what": what, "uid": os.getuid(), "file": beam.__file__})

    with beam.Pipeline(runner=runner) as pipeline:
        scored = pipeline | beam.Create([photo, missing]) | ScoreImages(load_config(config))
        scores = scored.scores | "Rows" >> beam.FlatMap(
            lambda batch: [tell("score", row["image_path"], row["predicted_index"]) for row in batch.to_pylist()]
        )
        failures = scored.failures | "Reasons" >> beam.Map(
            lambda failure: tell("failure", failure.ref.path, failure.code.value)
        )
        _ = (scores, failures) | beam.Flatten() | beam.io.WriteToText(output, shard_name_template="")


if __name__ == "__main__":
    main(*sys.argv[1:])
