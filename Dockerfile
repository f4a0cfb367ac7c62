# A worker and launcher in one image: docker build -t score-images . && docker run score-images --help
ARG BASE_IMAGE=python:3.11-slim-bookworm
FROM ${BASE_IMAGE}

WORKDIR /app
COPY constraints.txt setup.py pyproject.toml README.md LICENSE ./
COPY transforms transforms
COPY pipeline pipeline
COPY configs configs
RUN pip install --no-cache-dir -c constraints.txt . \
    && useradd --create-home --uid 10001 scorer

USER scorer
ENTRYPOINT ["score-images"]
