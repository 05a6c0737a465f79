"""Writes the digits network as an ONNX file, which `recipes/digits_onnx.yaml` starts from.

    python recipes/digits/export.py

The file is made rather than kept in the repository, since it holds the same numbers as `digits.safetensors`. The same
weights and the same release of torch give the same bytes.
"""

import argparse
import warnings
from pathlib import Path

import torch
from network import DigitsNet
from safetensors.torch import load_file

HERE = Path(__file__).resolve().parent
OPSET = 18


def main() -> None:
    parser = argparse.ArgumentParser(description="write the digits network as an ONNX file")
    parser.add_argument("--out", type=Path, default=HERE / "digits.onnx", help="file to write")
    out: Path = parser.parse_args().out

    network = DigitsNet()
    network.load_state_dict(load_file(HERE / "digits.safetensors"))
    axes = {"image": {0: "batch"}, "logits": {0: "batch"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the older exporter is the one that folds normalization
        torch.onnx.export(
            network.eval(), (torch.zeros(2, 1, 32, 32),), out, dynamo=False, opset_version=OPSET,
            input_names=["image"], output_names=["logits"], dynamic_axes=axes,
        )  # fmt: skip
    print(f"{out}: {out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
