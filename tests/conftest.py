"""Fixtures shared by the tests, and the devices that they run on."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# These run twice: on the CPU, and as if there were a GPU, on the strict stand-in for CuPy (strict_cupy.py).
# With --device gpu they alone run, on the real thing.
ON_DEVICES = """
test_backup test_branches test_callbacks test_constraints_regularizers test_cuda_graph test_device test_fit
test_kernels_activations test_kernels_conv test_kernels_conv_algorithms test_kernels_dense test_kernels_dropout
test_kernels_geometry_im2col test_kernels_norm test_kernels_pool test_kernels_softmax test_kernels_sums test_layers
test_losses test_metrics test_models test_optimizers test_plan_gpu test_saving test_summary
"""

OF_DEVICES = ("test_cuda_graph", "test_device", "test_plan_gpu")  # which ask for a device themselves: not on the CPU


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device",
        choices=["cpu", "strict", "gpu"],
        help="where the tests of layers and models run; without it on the CPU and on the stand-in for CuPy",
    )
    parser.addoption("--shuffle", type=int, metavar="SEED", help="run the tests in a random order, the same for a seed")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "cpu: has nothing to do with the device, or is about threads and host arrays")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.module.__name__ not in ON_DEVICES.split():
        return
    chosen = metafunc.config.getoption("--device")
    devices = [chosen] if chosen else ["cpu", "strict"]
    if metafunc.definition.get_closest_marker("cpu"):
        devices = devices[:1]
    if metafunc.module.__name__ in OF_DEVICES and not metafunc.definition.get_closest_marker("cpu"):
        devices = [chosen or "strict"]
    metafunc.parametrize("device_of_test", devices, indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--device") in ("strict", "gpu"):
        chosen = [i for i in items if hasattr(i, "callspec") and "device_of_test" in i.callspec.params
                  and not i.get_closest_marker("cpu")]  # fmt: skip
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = chosen
    if config.getoption("--shuffle") is not None:
        random.Random(config.getoption("--shuffle")).shuffle(items)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """MINICNN_MUST_RUN: words with commas between; a test that is skipped for a reason with one of them has failed."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    words = [word for word in os.environ.get("MINICNN_MUST_RUN", "").split(",") if word]
    if report.skipped and any(word in str(report.longrepr) for word in words):
        report.outcome, report.longrepr = "failed", f"must not be skipped here: {report.longrepr}"


@pytest.fixture(autouse=True)
def device_of_test(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The device that a test runs on: "cpu", "strict" or "gpu". New models live there; kernels compute there."""
    name = getattr(request, "param", "cpu")
    if name == "cpu":
        yield name
        return
    import on_device
    import strict_cupy

    import minicnn

    if name == "strict":
        strict_cupy.install(monkeypatch)
    try:
        gpu = minicnn.device("gpu")
    except minicnn.errors.InputError as error:
        pytest.exit(f"--device gpu: {error.problem} {error.received}", returncode=1)
    if request.module.__name__ in OF_DEVICES:
        yield name
        return
    on_device.move_calls(request.module, request.node.callspec.params, monkeypatch)
    with gpu:
        yield name
    idle = name == "strict" and not (strict_cupy.log["launch"] or strict_cupy.log["refused"])
    if idle and request.module.__name__.startswith("test_kernels_"):
        pytest.fail("nothing was computed on the device: mark it with pytest.mark.cpu if nothing should be")


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
