"""Fixtures shared by the tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with mnist/, fashion-mnist/ and cifar-10-batches-bin/, to be given as MINICNN_DATA.

    That is MINICNN_DATA itself where it is set; or the data folder beside the checkout, unpacked once.
    """
    if os.environ.get("MINICNN_DATA"):
        return Path(os.environ["MINICNN_DATA"])
    unpack = Path(__file__).resolve().parents[2] / "shared" / "data" / "unpack.py"
    if not unpack.exists():
        pytest.skip(
            "needs real data: set MINICNN_DATA to a folder with mnist/*.gz, fashion-mnist/*.gz and "
            "cifar-10-batches-bin/*.bin as their authors publish them"
        )
    target = tmp_path_factory.mktemp("data")
    subprocess.run([sys.executable, str(unpack), str(target)], check=True, capture_output=True)
    return target
