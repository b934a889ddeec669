"""The benchmarks: each command runs as a reader types it, with --quick and without peers; what they compute is right.

Nothing here looks at how long anything took.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import strict_cupy
from PIL import Image

import minicnn
from minicnn.applications import VGG16, ResNet20, SmallVGGNet
from minicnn.kernels.conv_choice import ALGORITHMS

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def benchmark(monkeypatch):
    """benchmark("models") imports benchmarks/models.py."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    return load


def run(script, *flags, fails=False, **env):
    """What the script prints; where it shall fail, its errors."""
    command = [sys.executable, str(ROOT / "benchmarks" / script), *map(str, flags)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", **env}
    done = subprocess.run(command, env=env, capture_output=True, encoding="utf-8", timeout=300)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    if fails:
        assert "Traceback" not in done.stderr
    return done.stderr if fails else done.stdout


def recorded(path):
    """The record that stands there; its picture shows something."""
    image = np.asarray(Image.open(path.with_suffix(".png")).convert("L"), dtype=float)
    assert image.std() > 10
    record = json.loads(path.read_text(encoding="utf-8"))
    assert {"command", "date", "versions", "hardware"} <= set(record)
    return record


# ---- the commands ----------------------------------------------------------------------------------------------------


def test_models(tmp_path):
    flags = ("--workloads", "dense,simple", "--one-thread", "dense", "--threads", 2)
    out = run("models.py", "--quick", *flags, "--output", tmp_path / "models.json")
    record = recorded(tmp_path / "models.json")
    assert set(record["workloads"]) == {"dense", "simple"}
    for result in (*record["workloads"].values(), record["one_thread"]["dense"]):
        assert result["title"] in out
        side = result["sides"]["minicnn"]
        assert 0 < side["fastest"] <= side["ms_per_step"] <= side["slowest"]
        assert "ratio" not in result
    assert record["one_thread"]["dense"]["threads"] == 1
    assert record["gain_of_threads"]["gemm"] > 0


def test_history(benchmark, tmp_path):
    history = benchmark("history")
    if subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True).returncode:
        pytest.skip("needs the git repository")
    changes = [change for change in history.CHANGES if "dense_800" in change.workloads]
    known = [change.title for change in changes if change.versions()]  # a history may be written anew, or cut
    out = run("history.py", "--quick", "--only", "dense_800", "--threads", 1, "--output", tmp_path / "history.json")
    rows = json.loads((tmp_path / "history.json").read_text())["rows"]
    assert [row["change"] for row in rows] == known
    for row in rows:
        assert 0 < row["ratio_by_round"][0] <= row["ratio_by_round"][1] and row["before_ms"] > 0 < row["after_ms"]
        assert (row["added"] is None) == (row["change"] == "all together")
    for change in changes:
        assert (f"{change.title}: left out" in out) == (change.title not in known) and change.title in out
    error = run("history.py", "--only", "alexnet", fails=True)
    assert "there are dense, cifar" in error


def test_history_tells_commits_by_their_messages(benchmark, tmp_path, monkeypatch):
    if not shutil.which("git"):
        pytest.skip("needs git")
    history = benchmark("history")
    monkeypatch.setattr(history, "HERE", tmp_path / "benchmarks")
    (tmp_path / "minicnn").mkdir()
    named = ("-c", "user.name=a", "-c", "user.email=a@b")
    history.git("init", "--quiet")
    for text, message in ("1\n2\n", "The start"), ("1\n3\n4\n", "GELU in float32 by a tail of it"), ("5\n", "End"):
        (tmp_path / "minicnn" / "file.py").write_text(text)
        history.git("add", "minicnn")
        history.git(*named, "commit", "--quiet", "-m", f"{message}\n\nwhy")
    gelu = history.CHANGES[0]
    before, after = gelu.versions()
    assert history.lines(before, after) == (2, 1)
    assert (history.checked_out(before, tmp_path / "out") / "minicnn" / "file.py").read_text() == "1\n2\n"
    assert history.Change("", "all", (), since="The start").versions() == (before, history.commit("End"))
    assert history.Change("The start", "no parent", ()).versions() is None
    assert [change.versions() for change in history.CHANGES[1:]] == [None] * (len(history.CHANGES) - 1)


def test_the_readme_shows_the_history(benchmark, tmp_path, monkeypatch):
    report = benchmark("report")
    monkeypatch.setattr(report, "HERE", tmp_path)
    assert report._history() == []
    row = {"change": "a trick", "workload": "dense", "before_ms": 2.0, "after_ms": 1.0, "ratio": 0.5}
    rows = [{**row, "added": 3, "removed": 1}, {**row, "added": None, "removed": None}]
    (tmp_path / "results").mkdir()
    record = {"threads": 2, "hardware": {"processor": "P"}, "rows": rows}
    (tmp_path / "results" / "history.json").write_text(json.dumps(record))
    first, second = report._history()[-2:]
    assert first == "| a trick | A: dense 128, train, batch 32, through fit | 2.00 ms | 1.00 ms | 0.50 | +3 −1 |"
    assert second.endswith("| 0.50 |  |")


def test_scaling(tmp_path):
    out = run("scaling.py", "--quick", "--threads", 2, "--output", tmp_path / "scaling.json")
    record = recorded(tmp_path / "scaling.json")
    assert [p["threads"] for p in record["threads_curve"]] == [1, 2]
    assert [p["batch"] for p in record["batches"]] == [1, 2, 3]
    assert [p["pixels"] for p in record["sizes"]] == [64, 144, 256]
    assert 1 <= record["limits"]["amdahl"] <= record["limits"]["cores"] == 16
    assert "R² = " in out and "16 cores" in out


PLACES = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


@pytest.mark.skipif(
    not (importlib.util.find_spec("mpi4py") and shutil.which("mpiexec", path=PLACES)),
    reason='needs MPI: python -m pip install "minicnn[mpi]"',
)
def test_scaling_of_ranks(tmp_path):
    root = dict.fromkeys(("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"), "1")
    more = {"PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe"}
    more["PYTHONPATH"] = os.pathsep.join([str(ROOT), *sys.path])
    out = run("scaling.py", "--quick", "--ranks", "2,1", "--output", tmp_path / "ranks.json", **root, **more)
    one, two = json.loads((tmp_path / "ranks.json").read_text())["points"]
    assert (one["ranks"], two["ranks"]) == (1, 2) and one["bytes"] == 4 * 2_263_114  # what learns of the network
    assert two["efficiency"] > 0 and two["gradients_ms"] > 0 and two["meeting_ms"] > 0
    assert "Ethernet, 10 Gbit/s" in out


def test_the_forecast_for_ranks(benchmark):
    ranks = benchmark("scaling_ranks")
    no_network = ranks.forecast(1e6, 0.0, 1000, 0, 0.0)
    assert all(gains == pytest.approx(ranks.RANKS) for gains in no_network.values())  # the network hardly counts
    slow, _, fast = ranks.forecast(0.1, 0.001, 10_000_000, 6, 5e-5).values()
    assert all(a < b for a, b in zip(slow, fast, strict=True)) and fast == sorted(fast) and fast[-1] < 64


def test_kernels(tmp_path):
    out = run("kernels.py", "--quick", "--threads", 2, "--output", tmp_path / "kernels.json")
    record = recorded(tmp_path / "kernels.json")
    rows = record["rows"]
    some = {"conv2d", "dense", "maxpool2d", "batchnorm", "dropout", "relu", "softmax", "adam"}
    assert some <= {r["kernel"] for r in rows}
    assert {r["algorithm"] for r in rows if r["kernel"] == "conv2d"} == set(ALGORITHMS) - {"implicit"}
    for r in rows:
        assert r["ms"] > 0 and r["mb"] > 0 and r["gbs"] >= 0
        assert (r["gflop"] > 0) == (r["group"] in ("conv", "dense"))
        assert r["error"] is None if r["way"] == "mask" else r["error"] < 1e-4, r
        assert f"{r['kernel']} {r['shape']}" in out
    assert record["ceilings"]["gemm_gflops"] > 0 and record["ceilings"]["copy_gbs"] > 0
    assert f"of {len({(r['kernel'], r['shape'], r['way']) for r in rows})} within 3 times the floor" in out


def test_times_the_floor(benchmark):
    rows = [
        {"gflop": 2.0, "mb": 1.0, "ms": 40.0, "gflops": 50.0, "gbs": 0.025},  # at 100 GFLOP/s 20 ms, at 10 GB/s 0.1 ms
        {"gflop": 0.0, "mb": 50.0, "ms": 40.0, "device_ms": 7.5, "gflops": 0.0, "gbs": 6.667},  # 5 ms for the bytes
    ]
    benchmark("kernels").add_shares(rows, {"gemm_gflops": 100.0, "copy_gbs": 10.0})
    assert [r["times_floor"] for r in rows] == [2.0, 1.5]


def test_some_kernels_only():
    out = run("kernels.py", "--quick", "--only", "tanh")
    names = {line.split()[0] for line in out.splitlines() if "forward" in line or "backward" in line}
    assert names == {"tanh"}
    assert "no kernel has 'tahn' in its name" in run("kernels.py", "--quick", "--only", "tahn", fails=True)


@pytest.mark.parametrize(
    "command",
    [("kernels.py", "--device", "gpu"), ("models.py", "--device", "gpu"), ("scaling.py", "--device", "gpu"),
     ("crossing.py",)],
    ids=lambda command: command[0],
)  # fmt: skip
def test_a_gpu_that_is_not_there(command, tmp_path):
    (tmp_path / "cupy.py").write_text("raise ImportError('there is none in this test')")
    error = run(*command, "--quick", fails=True, PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    for part in ("Expected: ", "Received: ", "What to do: "):
        assert part in error


def test_unknown_names():
    assert "there are dense, cifar" in run("models.py", "--workloads", "alexnet", fails=True)
    assert "there are torch and tensorflow" in run("models.py", "--peers", "jax", fails=True)


# ---- the same network on every side ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "params"),
    [("fast", 24 * 13 + 9 * (24 * 64 + 64 * 64 + 64 * 256 + 3 * 256 * 256) + 4 * 2 * (64 + 2 * 256) + 2560),
     ("dense", 101_770), ("cifar", 2_264_458), ("simple", 3_146_752 + 524_800 + 1_539), ("dense_800", 636_010)],
)
def test_workloads_are_the_documents_networks(benchmark, name, params):
    model = benchmark("worker_minicnn").build(benchmark("workloads").get(name))
    assert model.count_params() == params


def test_workloads_are_the_applications(benchmark):
    build, get = benchmark("worker_minicnn").build, benchmark("workloads").get
    assert build(get("small_vgg")).count_params() == SmallVGGNet(64, 64, 3, classes=3).count_params()
    assert build(get("resnet20")).count_params() == ResNet20().count_params()
    vgg16 = VGG16(weights=None, include_top=False, input_shape=(32, 32, 3))
    assert build(get("vgg16")).count_params() == vgg16.count_params()


def test_a_side_begins_with_the_given_weights_and_repeats(benchmark):
    workload = benchmark("workloads").get("dense", quick=True)
    side = benchmark("worker_minicnn").Side
    first, second = (side(workload, "", "cpu", dropout=False) for _ in range(2))
    kernels = list(benchmark("workloads").weights(workload))
    np.testing.assert_array_equal(first.model.layers[1].params["w"], kernels[0])
    losses = first.check()
    assert losses == second.check() and len(losses) == 3 and np.isfinite(losses).all()


def test_what_counts_as_a_difference(benchmark):
    differences, get = benchmark("models").differences, benchmark("workloads").get
    train, forward = get("dense"), get("vgg16")
    assert differences(train, [2.0, 1.0, 0.5], [2.0001, 1.01, 0.49]) == ""
    assert "number 1" in differences(train, [2.0, 1.0, 0.5], [2.01, 1.0, 0.5])
    assert "number 3" in differences(train, [2.0, 1.0, 0.5], [2.0, 1.0, 0.6])
    assert "number 2" in differences(train, [2.0, float("nan")], [2.0, 1.0])
    assert differences(forward, [1.0, 1e-6], [1.0, 2e-6]) == ""
    assert "number 2" in differences(forward, [1.0, 0.1], [1.0, 0.101])
    assert differences(train, [1.0], [1.0, 2.0]) == "1 and 2 numbers"


# ---- what is worked out from the times -------------------------------------------------------------------------------


def side(benchmark, name, rounds, peak):
    made = object.__new__(benchmark("models").Side)
    made.name, made.rounds, made.peak_mb, made.versions, made.more = name, rounds, peak, {name.split()[0]: "1"}, {}
    return made


def test_the_ratio_is_to_the_fastest_peer(benchmark):
    workload = benchmark("workloads").get("cifar")
    sides = [side(benchmark, *given) for given in (
        ("minicnn", [8.0, 9.0, 10.0], 100), ("torch nchw", [20.0, 20.0, 20.0], 400),
        ("torch channels_last", [9.0, 12.0, 30.0], 500), ("tensorflow step", [15.0, 15.0, 15.0], 800),
    )]  # fmt: skip
    result = benchmark("models").compared(sides, workload, 2, "cpu")
    assert result["fastest_peer"] == "torch channels_last"
    assert result["ratio"] == 9 / 12
    assert result["ratios"] == {"torch nchw": 0.45, "torch channels_last": 0.75, "tensorflow step": 0.6}
    assert result["ratio_by_round"] == {"lowest": round(10 / 30, 3), "highest": round(8 / 9, 3)}
    assert result["memory_ratios"]["torch nchw"] == 0.25
    last = benchmark("models").table({"cifar": result}).splitlines()[-2]
    assert last.split()[-6:] == ["9.00", "12.00", "15.00", "0.75", "0.55", "*"]
    result["sides"]["minicnn"]["ms_per_step"], result["ratio"] = 6.0, 0.5
    assert "above the goal" not in benchmark("models").table({"cifar": result})


def test_on_a_gpu_float32_and_tf32_are_compared_apart(benchmark):
    models, workload = benchmark("models"), benchmark("workloads").get("cifar_512")
    names = [f"{peer} {v}".strip() for peer in ("minicnn", "torch") for v in models.variants(peer, workload, "gpu")]
    assert names == ["minicnn", "minicnn tf32", "torch nchw", "torch channels_last", "torch nchw tf32",
                     "torch channels_last tf32"]  # fmt: skip
    times = [12.0, 6.0, 10.0, 11.0, 5.0, 4.0]
    sides = [side(benchmark, name, [ms, ms, ms], 0) for name, ms in zip(names, times, strict=True)]
    result = models.compared(sides, workload, 2, "gpu")
    assert result["ratio"] == 1.2 and result["fastest_peer"] == "torch nchw" and result["goal"] == 1.3
    assert result["tf32"]["ratio"] == 1.5 and result["tf32"]["fastest_peer"] == "torch channels_last tf32"
    whole, rounded = models.table({"cifar_512": result}).splitlines()[1:]
    assert whole.split()[-4:] == ["12.00", "10.00", "1.20", "1.30"] and rounded.split()[-3:] == ["6.00", "4.00", "1.50"]
    assert models.variants("torch", workload, "cpu") == ["nchw", "channels_last", "nchw kept", "channels_last kept"]
    assert models.variants("tensorflow", workload, "gpu") == ["step"]
    names_on = benchmark("workloads").names_on
    assert "cifar_512" in names_on("gpu") and "cifar_512" not in names_on("cpu")


def test_accuracies_of_two_devices(benchmark):
    within_noise = benchmark("fashion_mnist").within_noise
    assert within_noise([0.930, 0.934, 0.932], [0.931, 0.935, 0.930])[0]
    assert not within_noise([0.930, 0.934, 0.932], [0.90, 0.91, 0.905])[0]
    assert within_noise([0.932], [0.936])[0] and not within_noise([0.932], [0.915])[0]


def test_the_readme_shows_what_is_recorded(benchmark):
    def took(ms, **versions):
        return {"ms_per_step": ms, "peak_memory_mb": ms, "versions": versions}

    sides = {"minicnn": took(5), "torch nchw": took(20, torch="2.1"), "torch channels_last": took(10, torch="2.1")}
    runs = {"cifar": {"threads": 2, "sides": sides}, "vgg16": {"threads": 2, "sides": {"minicnn": took(7)}}}
    lines = benchmark("report")._speed({"workloads": runs, "hardware": {"processor": "P"}})
    assert lines[2] == "| B: CIFAR-10 CNN, train, batch 64 | 5.00 | 10.00 | – | 0.50 | 0.55 |"
    assert lines[3].endswith("| 7.00 | – | – | – | 0.60 |")
    assert "5 MiB, 0.50 times" in lines[-1] and "PyTorch 2.1" in lines[-1]


def test_a_line_through_points(benchmark):
    scaling = benchmark("scaling")
    fit = scaling.line_fit([{"n": n, "ms": 3 + 2 * n} for n in (1, 2, 5, 9)], "n")
    assert fit["fixed_ms"] == pytest.approx(3) and fit["slope_ms"] == pytest.approx(2) and fit["r2"] == pytest.approx(1)
    assert scaling.line_fit([{"n": n, "ms": ms} for n, ms in ((1, 1), (2, 5), (3, 1))], "n")["r2"] == pytest.approx(0)
    assert scaling.thread_counts(6) == [1, 2, 3, 4, 6] and scaling.thread_counts(1) == [1]


# ---- on a GPU --------------------------------------------------------------------------------------------------------

# Instead of python3: notes what it is asked for, writes the records, and fails where a word of it is $FAILS.
STUB = """#!/bin/sh
echo "$*" >> "$NOTES"
for word in "$@"; do
    case $word in *.json) echo "{}" > "$word" ;; esac
done
case "$*" in *"$FAILS"*) exit 3 ;; esac
"""
STAGES = {
    "tests": ["--device gpu -q -x", "test_kernels_conv.py", "-n 8"],
    "kernels": ["benchmarks/kernels.py"],
    "models": ["benchmarks/models.py", "benchmarks/cuda_graph.py"],
    "cifar": ["examples/train_cifar10.py"],
    "rest": ["examples/cpu_vs_gpu.py", "benchmarks/scaling.py", "benchmarks/crossing.py"],
}


@pytest.mark.skipif(not (shutil.which("bash") and shutil.which("timeout")), reason="needs bash and timeout")
@pytest.mark.parametrize("stage", [*STAGES, "none"])
def test_stages_of_gpu_check(stage, tmp_path):
    """At most 8 files, all in one folder; and whichever command fails, the stage does."""
    python, notes, out = tmp_path / "bin" / "python3", tmp_path / "notes", tmp_path / "out"
    python.parent.mkdir()
    python.write_text(STUB)
    python.chmod(0o755)

    def status(fails):
        env = {**os.environ, "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}", "NOTES": str(notes)}
        command = ["bash", str(ROOT / "benchmarks" / "gpu_check.sh"), stage, str(out)]
        return subprocess.run(command, env={**env, "FAILS": fails}, capture_output=True, timeout=300).returncode

    if stage == "none":
        assert status("nothing") == 2
        return
    assert status("nothing") == 0
    asked = notes.read_text()
    assert all(part in asked for part in STAGES[stage])
    files = list(out.iterdir())
    assert "gpu.txt" in {file.name for file in files} and len(files) <= 8 and all(file.is_file() for file in files)
    for fails in ("minicnn.device('gpu')", "show_config", *STAGES[stage]):
        assert status(fails) != 0, fails



@pytest.fixture
def gpu(monkeypatch):
    """The stand-in for CuPy, with a clock whose events are always 4 ms apart."""
    cupy = strict_cupy.install(monkeypatch)
    clocked = SimpleNamespace(**vars(cupy.cuda), get_elapsed_time=lambda begin, end: 4.0)
    monkeypatch.setattr(cupy, "cuda", clocked)
    return cupy


def test_times_on_a_gpu_stand_apart(benchmark, gpu):
    (times,) = benchmark("timing").in_turn([lambda: gpu.zeros(3)], 0, "gpu")
    assert times["device_ms"] == 4.0
    assert 0 < times["launch_ms"] <= times["ms"]


def test_kernels_on_both_devices(benchmark, gpu, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("sys.argv", ["crossing.py", "--quick", "--threads", "2", "--output", str(tmp_path / "c.json")])
    benchmark("crossing").main()
    record = recorded(tmp_path / "c.json")
    assert sorted({p["batch"] for p in record["batch"]}) == [1, 2]
    assert sorted({p["image_size"] for p in record["image_size"]}) == [4, 8]
    kernels = {f"{p['kernel']} {p['way']}" for p in record["batch"]}
    assert {"conv2d forward", "conv2d dx+dw", "batchnorm backward", "relu forward", "dense dx+dw"} <= kernels
    for point in record["batch"] + record["image_size"]:
        assert point["device_ms"] == 4.0 and 0 < point["launch_ms"] <= point["gpu_ms"] and point["cpu_ms"] > 0
    out = capsys.readouterr().out
    assert all(kernel in out for kernel in kernels) and "the GPU is faster" in out


@pytest.mark.parametrize(
    ("cpu", "gpu_ms", "expected"),
    [([1, 2, 4], [3, 3, 3], 3), ([4, 5, 6], [3, 3, 3], 1), ([1, 1, 1], [3, 3, 3], None), ([4, 1, 4], [3, 3, 3], 3)],
)
def test_where_the_gpu_becomes_faster(benchmark, cpu, gpu_ms, expected):
    points = [{"batch": n, "cpu_ms": c, "gpu_ms": g} for n, c, g in zip((1, 2, 3), cpu, gpu_ms, strict=True)]
    assert benchmark("crossing").crossing(points, "batch") == expected


@pytest.mark.parametrize("name", ["dense", "cifar_forward_1"])
def test_a_round_on_a_gpu(benchmark, gpu, name):
    workload = benchmark("workloads").get(name, quick=True)
    made = benchmark("worker_minicnn").Side(workload, "", "gpu", dropout=True)
    before = strict_cupy.log["to_device"]
    found = made.round()
    assert found["device_ms"] == 4.0 / workload.batches
    assert found["launch_ms"] > 0 and found["transfer_ms"] > 0
    assert strict_cupy.log["to_device"] > before
    assert minicnn.backend.xp_of(made.model.flat_layers[1].params.get("w", gpu.zeros(1))) is gpu
