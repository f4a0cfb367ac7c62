# A worker and launcher in one image: docker build -t score-images . && docker run score-images --help
ARG BASE_IMAGE=python:3.11-slim-bookworm
FROM ${BASE_IMAGE}

WORKDIR /app
COPY constraints.txt setup.py pyproject.toml README.md LICENSE ./
COPY transforms transforms
COPY pipeline pipeline
COPY configs configs
# The compiler is for transforms/_resample.c and _softmax.c only, and gone from the layer again.
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev \
    && pip install --no-cache-dir -c constraints.txt . \
    && apt-get purge -y --auto-remove gcc libc6-dev && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 scorer

USER scorer
ENTRYPOINT ["score-images"]
