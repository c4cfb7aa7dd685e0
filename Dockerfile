# Two images from one file: `api` without torch, and `worker` with the engine.
FROM python:3.11-slim-bookworm AS runtime
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /srv/winnow
RUN useradd --system --uid 10001 --home-dir /srv/winnow winnow && install -d -o winnow /var/lib/winnow
COPY pyproject.toml constraints.txt README.md alembic.ini ./
COPY app app
COPY workers workers
COPY alembic alembic

FROM runtime AS api
RUN pip install --constraint constraints.txt --editable .
USER winnow
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz')"]
CMD ["winnowd", "api", "--host", "0.0.0.0", "--port", "8000"]

FROM runtime AS worker
# Options for pip's choice of torch, such as the index of its CPU builds, which make a far smaller image.
ARG TORCH_OPTIONS=""
RUN apt-get update && apt-get install --yes --no-install-recommends bubblewrap && rm -rf /var/lib/apt/lists/*
RUN pip install --constraint constraints.txt ${TORCH_OPTIONS} torch==2.13.0 \
    && pip install --constraint constraints.txt --editable '.[worker]' \
    && python -m compileall -q app workers
USER winnow
CMD ["winnowd", "worker", "--queue", "cpu"]
