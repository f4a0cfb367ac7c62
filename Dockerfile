# One image for whoever launches a run and for Beam's workers: docker build --target cpu -t score-images .
# Targets: cpu (the default), gpu (NVIDIA), flex-template (a launcher for Dataflow's Flex Templates).

# Any Debian or Ubuntu whose `python` is 3.11, with pip, venv and Python's headers.
ARG BASE_IMAGE=python:3.11-slim-bookworm
ARG GO_IMAGE=golang:1.26-bookworm
ARG FLEX_LAUNCHER_IMAGE=gcr.io/dataflow-templates-base/python311-template-launcher-base:latest

# Beam's worker boot, from the source in Beam's Go module, which go checks against the public checksum database. To take
# the one of Beam's own image instead: --build-context boot=docker-image://apache/beam_python3.11_sdk:2.77.0
FROM ${GO_IMAGE} AS boot
# For networks that inspect TLS: a bundle of certificates that the build mounts.
ARG SSL_CERT_FILE
WORKDIR /build
# The version is the one that pip installs: a boot of another release speaks another protocol.
COPY constraints.txt ./
RUN version="v$(sed -n 's/^apache-beam==//p' constraints.txt)" \
    && CGO_ENABLED=0 GOBIN=/build go install -trimpath -ldflags='-s -w' \
       "github.com/apache/beam/sdks/v2/python/container@$version" \
    && mkdir -p /opt/apache/beam \
    && mv container /opt/apache/beam/boot \
    && cp "$(go env GOMODCACHE)/github.com/apache/beam/sdks/v2@$version/LICENSE" /opt/apache/beam/LICENSE \
    && go clean -modcache -cache

# The compiler stays in this stage. Without it the package would install, too, and resize slower.
FROM ${BASE_IMAGE} AS wheel
ARG PIP_CERT
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY constraints.txt setup.py pyproject.toml README.md LICENSE ./
COPY configs configs
COPY transforms transforms
COPY pipeline pipeline
RUN PIP_CONSTRAINT=constraints.txt pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

# What the package needs, as a list that changes only when setup.py's does: the layer below outlives code changes.
FROM ${BASE_IMAGE} AS requirements
ARG EXTRAS=""
WORKDIR /build
COPY constraints.txt setup.py README.md ./
RUN python -W ignore -c "import sys; from distutils.core import run_setup; \
    package = run_setup('setup.py', stop_after='init'); \
    extras = [extra for extra in sys.argv[1].split(',') if extra]; \
    wanted = package.install_requires + sum((package.extras_require[extra] for extra in extras), []); \
    print(*wanted, sep='\n')" "${EXTRAS}" > requirements.txt

FROM ${BASE_IMAGE} AS runtime
ARG PIP_CERT
# Debian's own Python refuses pip otherwise. Boot's environment of its own for every worker would be a copy of this one.
ENV PIP_BREAK_SYSTEM_PACKAGES=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PYTHONUNBUFFERED=1 \
    RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT=1 \
    TFHUB_CACHE_DIR=/models
RUN useradd --create-home --uid 10001 --user-group scorer && install -d -o scorer -g scorer /work /models
COPY --from=requirements /build/requirements.txt /build/constraints.txt /requirements/
RUN pip install --no-cache-dir -r /requirements/requirements.txt -c /requirements/constraints.txt
COPY --from=boot /opt/apache/beam/boot /opt/apache/beam/LICENSE /opt/apache/beam/
WORKDIR /work

FROM runtime AS app
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-deps /wheels/*.whl && pip check \
    && python -c "import transforms._resample, transforms._softmax"
USER 10001:10001
ENTRYPOINT ["score-images-container"]

# MODEL=https://tfhub.dev/...: fetched now, found in /models by every run. Folders: a mount, or two lines on this image.
FROM app AS models
ARG MODEL=""
RUN if [ -n "${MODEL}" ]; then score-images inspect "${MODEL}"; fi

# The CUDA libraries come as the wheels that this TensorFlow names: no CUDA base, whose versions another hand chooses.
FROM runtime AS gpu
ARG PIP_CERT
RUN pip install --no-cache-dir 'tensorflow[and-cuda]' -c /requirements/constraints.txt
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-deps /wheels/*.whl && pip check \
    && python -c "import transforms._resample, transforms._softmax"
COPY --from=models --chown=scorer:scorer /models /models
# What the container runtime of a GPU machine mounts. Without that runtime, on the Container-Optimized OS of Dataflow and
# GKE, the driver's libraries are a folder that no loader knows; images of nvidia/cuda name it in the same way.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    LD_LIBRARY_PATH=/usr/local/nvidia/lib:/usr/local/nvidia/lib64
USER 10001:10001
ENTRYPOINT ["score-images-container"]

FROM ${FLEX_LAUNCHER_IMAGE} AS flex-launcher

# What gcloud dataflow flex-template build takes as --image; build it with EXTRAS=gcp. It only submits: the workers'
# image may be gpu, of the same build.
FROM app AS flex-template
COPY --from=flex-launcher /opt/google/dataflow/python_template_launcher /opt/google/dataflow/python_template_launcher
COPY --from=wheel /build/pipeline/flex_template.py /template/flex_template.py
ENV FLEX_TEMPLATE_PYTHON_PY_FILE=/template/flex_template.py
COPY --from=models --chown=scorer:scorer /models /models

FROM app AS cpu
COPY --from=models --chown=scorer:scorer /models /models
