# The serving image: the runtime extras only, no torch, no compiler, not root.
#
#   docker build -t gazeseg-serve .                                                     CPU
#   docker build -t gazeseg-serve:gpu --build-arg ENGINE=gpu \
#       --build-arg BASE=nvidia/cuda:12.9.1-cudnn-runtime-ubuntu24.04 \
#       --build-arg SETUP="apt-get update && apt-get install -y --no-install-recommends python3 python3-venv && rm -rf /var/lib/apt/lists/*" .
#   docker run --rm -p 3000:3000 -v "$PWD/artifacts/polyps:/models:ro" gazeseg-serve
#
# BASE is any image with Python 3.11 to 3.13 as python3, or one that SETUP gives it to.
ARG BASE=python:3.12-slim

FROM ${BASE} AS build
ARG SETUP=true
ARG ENGINE=cpu
RUN sh -c "${SETUP}"
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY gazeseg_serve gazeseg_serve
COPY training training
COPY export export
COPY service service
RUN python3 -m venv /opt/gazeseg \
 && /opt/gazeseg/bin/pip install --no-cache-dir -c constraints.txt ".[serve,dicom,client,${ENGINE}]" \
 && /opt/gazeseg/bin/python -m compileall -q /opt/gazeseg/lib \
 && /opt/gazeseg/bin/gazeseg-serve --version

FROM ${BASE}
ARG SETUP=true
RUN sh -c "${SETUP}" && useradd --system --uid 10001 --home-dir /home/gazeseg --create-home gazeseg
COPY --from=build /opt/gazeseg /opt/gazeseg
ENV PATH=/opt/gazeseg/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    BENTOML_DO_NOT_TRACK=True \
    ORT_DISABLE_TELEMETRY=1 \
    GAZESEG_ARTIFACT=/models
USER 10001
WORKDIR /home/gazeseg
VOLUME /models
EXPOSE 3000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s --retries=3 \
    CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:3000/readyz', timeout=2)"]
ENTRYPOINT ["gazeseg-serve"]
CMD ["serve", "--host", "0.0.0.0", "--port", "3000"]
