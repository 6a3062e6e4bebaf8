# The serving image: the runtime extras only, every package checked against its hash; no torch, no compiler, no pip, not root.
#
#   docker build --target cpu -t gazeseg-serve .
#   docker build --target gpu -t gazeseg-serve:gpu .       CUDA 13, and TensorRT where GPU_BASE has its libraries
#   docker run --rm --read-only --tmpfs /tmp --cap-drop ALL -p 3000:3000 -v "$PWD/artifacts/polyps:/models:ro" gazeseg-serve
#
# Without a folder at /models it serves the model of the package. CPU_BASE is any image with Python 3.11 to 3.13 as python3,
# GPU_BASE any of Debian's kind with CUDA and cuDNN. Where there is no Docker engine: deploy/container.py, docs/deploy.md.
ARG CPU_BASE=docker.io/library/python:3.12-slim
ARG GPU_BASE=docker.io/nvidia/cuda:13.0.2-cudnn-runtime-ubuntu24.04

# ---- the environments -------------------------------------------------------------------------------------------------
FROM ${CPU_BASE} AS build-cpu
WORKDIR /src
COPY deploy/install.sh deploy/requirements-build.txt deploy/requirements-cpu.txt deploy/
RUN sh deploy/install.sh packages cpu /opt/gazeseg
COPY . .
RUN sh deploy/install.sh service cpu /opt/gazeseg

FROM ${GPU_BASE} AS cuda
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-venv && rm -rf /var/lib/apt/lists/*

FROM cuda AS build-gpu
WORKDIR /src
COPY deploy/install.sh deploy/requirements-build.txt deploy/requirements-gpu.txt deploy/
RUN sh deploy/install.sh packages gpu /opt/gazeseg
COPY . .
RUN sh deploy/install.sh service gpu /opt/gazeseg

# ---- the images -------------------------------------------------------------------------------------------------------
FROM cuda AS gpu
RUN useradd --uid 10001 --no-create-home --home-dir /tmp gazeseg
COPY --from=build-gpu /opt/gazeseg /opt/gazeseg
COPY gazeseg_serve/models/default /models
ENV PATH=/opt/gazeseg/bin:$PATH GAZESEG_ARTIFACT=/models
LABEL org.opencontainers.image.title="gazeseg-serve" org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.description="Segmentation models trained on gaze, over HTTP, on a GPU. Research use only"
USER 10001
WORKDIR /tmp
EXPOSE 3000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s --retries=3 \
    CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:3000/readyz', timeout=2)"]
ENTRYPOINT ["gazeseg-serve"]
CMD ["serve", "--host", "0.0.0.0", "--port", "3000"]

FROM ${CPU_BASE} AS cpu
RUN useradd --uid 10001 --no-create-home --home-dir /tmp gazeseg
COPY --from=build-cpu /opt/gazeseg /opt/gazeseg
COPY gazeseg_serve/models/default /models
ENV PATH=/opt/gazeseg/bin:$PATH GAZESEG_ARTIFACT=/models
LABEL org.opencontainers.image.title="gazeseg-serve" org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.description="Segmentation models trained on gaze, over HTTP. Research use only"
USER 10001
WORKDIR /tmp
EXPOSE 3000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:3000/readyz', timeout=2)"]
ENTRYPOINT ["gazeseg-serve"]
CMD ["serve", "--host", "0.0.0.0", "--port", "3000"]
