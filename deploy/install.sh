#!/bin/sh
# What the Dockerfile runs to fill the environment that the image holds; /opt/build, with pip, stays behind.
#
#   sh deploy/install.sh packages ENGINE VENV    what the service needs, each file checked against its hash
#   sh deploy/install.sh service ENGINE VENV     the project itself; then out with what is never read
set -eu
step=$1 engine=$2 venv=$3
pip="/opt/build/bin/python -m pip --python $venv/bin/python install --no-cache-dir --no-compile"

if [ "$step" = packages ]; then
    python3 -m venv /opt/build
    /opt/build/bin/python -m pip install --no-cache-dir --require-hashes -r deploy/requirements-build.txt
    python3 -m venv --without-pip "$venv"
    $pip --require-hashes --only-binary :all: -r "deploy/requirements-$engine.txt"
    exit
fi

/opt/build/bin/python -m pip wheel --no-deps --no-build-isolation --wheel-dir /tmp/wheel .
$pip --no-deps /tmp/wheel/*.whl
site=$(echo "$venv"/lib/python3.*/site-packages)
# The packages' own tests, the sources of compiled modules, and the weights that only a training begins with.
find "$site" -type d \( -name tests -o -name test \) -prune -exec rm -rf {} +
find "$site" -type f \( -name '*.pyx' -o -name '*.pxd' -o -name '*.pyi' \) -delete
rm "$site"/gazeseg_serve/training/networks/*.safetensors
# The tools that rewrite transformers; and the engine as a library for C programs, where Python's module holds its own.
rm -rf "$site"/onnxruntime/transformers
if [ "$engine" = cpu ]; then rm -f "$site"/onnxruntime/capi/libonnxruntime.so.*; fi

# The codecs of formats that no DICOM file holds, and their libraries: 70 MB.
find "$site"/imagecodecs -name '_*.so' ! -name '_shared*' ! -name '_imcd.*' ! -name '_jpeg8.*' ! -name '_jpegls.*' \
    ! -name '_jpeg2k.*' -delete
find "$site"/imagecodecs.libs -name '*.so*' ! -name 'libjpeg-*' ! -name 'libcharls-*' ! -name 'libopenjp2-*' \
    ! -name 'liblcms2-*' -delete

# Byte code of just what a start imports (all of it would be 40 MB more): the service writes it as it starts, and its
# start shows that nothing is missing. The GPU image is built without a GPU, so it starts on the CPU here.
unset PYTHONDONTWRITEBYTECODE
GAZESEG_LOG_FORMAT=plain "$venv"/bin/gazeseg-serve serve --device cpu --port 3999 &
service=$!
"$venv"/bin/python - <<'PYTHON'
import time, urllib.request

for _ in range(600):
    try:
        urllib.request.urlopen("http://127.0.0.1:3999/readyz", timeout=2)
        break
    except OSError:
        time.sleep(0.2)
else:
    raise SystemExit("the service did not become ready")
PYTHON
kill -TERM "$service"
wait "$service"
