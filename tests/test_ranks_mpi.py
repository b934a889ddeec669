"""Ranks that mpiexec has started, on a real MPI: the same training, and what happens when one of them dies."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

import minicnn
from minicnn.errors import InputError
from minicnn.training import distributed

ROOT = Path(__file__).resolve().parents[1]
MPIEXEC = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
needs_mpi = pytest.mark.skipif(
    MPIEXEC is None or importlib.util.find_spec("mpi4py") is None,
    reason='needs MPI: python -m pip install "minicnn[mpi]"',
)
LIMIT = 120.0  # seconds for everything that ranks do here
KILLS = int(os.environ.get("MINICNN_KILLS", "2"))  # 20 take a minute

SCRIPT = '''
"""A script as anybody would write it, which knows nothing of ranks; and what the test wants to see of it."""
import json, os, sys, time
from pathlib import Path
import numpy as np
import minicnn
from minicnn import callbacks
from minicnn.layers import BatchNormalization, Conv2D, Dense, Dropout, Flatten, Input, MaxPooling2D
from minicnn.training import distributed

mode, folder = sys.argv[1], Path(sys.argv[2])
rank = minicnn.get_group().rank
(folder / f"pid-{rank}").write_text(str(os.getpid()))


class Watch(callbacks.Callback):
    losses = []

    def on_train_batch_end(self, batch, logs=None):
        step = self.model.optimizer.iterations
        self.losses.append(logs["loss"])
        (folder / f"step-{rank}").write_text(str(step))
        if mode == "late" and rank == 1 and step == 5:
            time.sleep(distributed.PATIENCE + distributed.ANSWER + 1.5)
        if mode == "error" and rank == 1 and step == 5:
            raise KeyError("the fault of rank 1")
        if mode in ("kill", "interrupt"):
            time.sleep(0.02)


if mode == "late":
    distributed.PATIENCE, distributed.ANSWER = 0.5, 0.5
minicnn.set_num_threads(1)
if mode != "unseeded":
    minicnn.utils.set_random_seed(3)
(x, y), (x_test, y_test) = minicnn.datasets.toy.load_data(n_train=225, n_test=50)
x, x_test = x[..., None] / 255, x_test[..., None] / 255
model = minicnn.Sequential([
    Input((28, 28, 1)), Conv2D(4, 3, activation="relu"), BatchNormalization(), MaxPooling2D(3), Flatten(), Dropout(0.2),
    Dense(10, activation="softmax"),
])
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
watch = Watch()
backup = []
if mode in ("kill", "resume"):
    best = callbacks.ModelCheckpoint(folder / "best.zip", monitor="loss", save_best_only=True, save_freq=3)
    backup = [best, callbacks.BackupAndRestore(folder / "backup", save_freq=2)]
try:
    history = model.fit(x, y, epochs=3, validation_data=(x_test, y_test), callbacks=[watch, *backup], verbose=2)
except KeyboardInterrupt:
    model.save(folder / "interrupted.zip")
    print("interrupted at step", model.optimizer.iterations)
    sys.exit(0)
if mode == "exit" and rank == 1:
    sys.exit(0)
predictions = model.predict(x_test)
model.save(folder / "model.zip")
print("evaluated:", model.evaluate(x_test, y_test, verbose=0))
np.savez(folder / f"result-{rank}.npz", predictions=predictions, losses=watch.losses, loss=history.history["loss"],
         val_loss=history.history["val_loss"], **{f"w{k}": w for k, w in enumerate(model.get_weights())})
'''


def started(n: int, mode: str, folder: Path) -> subprocess.Popen:
    """n ranks of the script; n = 0: without mpiexec."""
    folder.mkdir(exist_ok=True)
    script = folder.parent / "script.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    allowed = ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "OMPI_MCA_rmaps_base_oversubscribe")
    environment |= dict.fromkeys(allowed, "1") | {"PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe"}
    command = [str(MPIEXEC), "-n", str(n)] if n else []
    return subprocess.Popen(
        [*command, sys.executable, str(script), mode, str(folder)], env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def ended(process: subprocess.Popen, limit: float = LIMIT) -> tuple[int, str, str]:
    """(exit status, stdout, stderr) of mpiexec, of which nothing is left."""
    try:
        out, err = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(f"it has not ended after {limit} s: {process.communicate()}")
    script = process.args[process.args.index(sys.executable) + 1]
    assert running(script) == []
    return process.returncode, out, err


def running(script: str) -> list[str]:
    """The processes that run this script, where the system tells."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().split(b"\0")
        except OSError:
            continue
        if script.encode() in words:
            found.append(entry.parent.name)
    return found


def wait_for(path: Path, seconds: float = LIMIT) -> None:
    limit = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < limit, path
        time.sleep(0.02)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict[str, np.ndarray]:
    """What one process finds."""
    folder = tmp_path_factory.mktemp("alone") / "results"
    status, out, err = ended(started(0, "train", folder))
    assert status == 0, err
    return dict(np.load(folder / "result-0.npz"))


def agree(alone: dict[str, np.ndarray], folder: Path, ranks: int, steps: int = 24) -> None:
    results = [dict(np.load(folder / f"result-{k}.npz")) for k in range(ranks)]
    for name, wanted in alone.items():
        ours = results[0][name]
        if name == "losses":
            wanted = wanted[len(wanted) - steps :]  # none, where the last backup was after the last step
        tolerance = {"losses": 1e-6, "loss": 1e-6, "val_loss": 1e-6}.get(name, 1e-4)
        near = 1e-5 if name[0] in "wp" else 0
        np.testing.assert_allclose(ours[len(ours) - len(wanted) :], wanted, rtol=tolerance, atol=near, err_msg=name)
        for other in results[1:]:
            np.testing.assert_array_equal(other[name], ours, err_msg=name)


@needs_mpi
@pytest.mark.parametrize(("ranks", "mode"), [(2, "train"), (3, "late")])
def test_ranks_train_as_one_process_does(ranks, mode, alone, tmp_path):
    """24 steps, the last batch of each epoch with a single sample; a rank that is late is named, and waited for."""
    status, out, err = ended(started(ranks, mode, tmp_path / "r"))
    assert status == 0, err
    assert len(alone["losses"]) == 24
    agree(alone, tmp_path / "r", ranks)
    assert out.count("Epoch 3/3") == out.count("evaluated:") == 1  # rank 0 prints
    assert sorted(p.suffix for p in (tmp_path / "r").glob("model*")) == [".zip"]
    if mode == "late":
        assert "rank 1 has not arrived at" in err.replace("rank 1 has waited", "")


@needs_mpi
def test_a_killed_rank_ends_all_and_another_number_of_ranks_goes_on(alone, tmp_path):
    """At random moments, KILLS times; what is there then is whole. Afterwards it ends as if nothing had happened."""
    folder, moments = tmp_path / "r", random.Random(7)
    for kill in range(KILLS):
        for old in folder.glob("pid-*"):
            old.unlink()
        ranks = 2 + kill % 2
        process = started(ranks, "kill", folder)
        victim = moments.randrange(ranks)
        wait_for(folder / f"pid-{ranks - 1}")
        wait_for(folder / f"pid-{victim}")
        time.sleep(moments.uniform(0, 1.2))
        with contextlib.suppress(ProcessLookupError):  # it was quicker
            os.kill(int((folder / f"pid-{victim}").read_text()), signal.SIGKILL)
        status, out, err = ended(process, limit=10)
        assert status == 0 or "signal 9" in (out + err).lower()
        if status == 0:
            shutil.rmtree(folder)
            continue
        for path in folder.rglob("*.zip"):
            assert zipfile.ZipFile(path).testzip() is None
    status, out, err = ended(started(3, "resume", folder))
    assert status == 0, err
    assert not (folder / "backup").exists() and not list(folder.rglob("*.part"))
    steps = len(np.load(folder / "result-0.npz")["losses"])
    agree(alone, folder, 3, steps)


@needs_mpi
@pytest.mark.parametrize(
    ("mode", "said"), [("error", "the fault of rank 1"), ("exit", "rank 1 has come to its end")]
)
def test_a_rank_that_ends_alone_ends_all(mode, said, tmp_path):
    status, out, err = ended(started(3, mode, tmp_path / "r"), limit=60)
    assert status != 0
    assert said in err
    if mode == "error":
        assert err.count("Traceback") == 1 and "rank 1 of 3" in err


@needs_mpi
def test_ctrl_c_on_one_rank_is_told_to_all_and_the_script_may_save(tmp_path):
    folder = tmp_path / "r"
    process = started(2, "interrupt", folder)
    wait_for(folder / "step-1")
    os.kill(int((folder / "pid-1").read_text()), signal.SIGINT)
    status, out, err = ended(process, limit=60)
    assert status == 0, err
    assert out.count("interrupted at step") == 1
    assert minicnn.load_model(folder / "interrupted.zip").optimizer.iterations == int(out.split()[-1])


# ---- bad set-ups -----------------------------------------------------------------------------------------------------


@pytest.fixture
def started_by(monkeypatch):
    """As if a launcher had started this process."""

    def set_up(name: str, size: int) -> None:
        monkeypatch.setenv(name, str(size))

    for name in (*distributed.LAUNCHERS, distributed.JOINED):
        monkeypatch.setenv(name, "")  # so that it is gone afterwards, whoever sets it meanwhile
        monkeypatch.delenv(name)
    monkeypatch.setattr(distributed, "_MPI", lambda *communicator: pytest.fail("nobody is there to be joined"))
    yield set_up
    minicnn.set_group(None)


def test_mpiexec_without_mpi4py_is_said_and_nothing_is_done(started_by, monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    started_by("OMPI_COMM_WORLD_SIZE", 4)
    distributed.join()
    model = minicnn.Sequential([minicnn.Input((2,)), minicnn.layers.Dense(1)])
    model.compile("sgd", "mse")
    x, y = np.ones((4, 2)), np.ones(4)
    for call in (lambda: model.fit(x, y), lambda: model.predict(x), lambda: model.save(tmp_path / "m.zip")):
        with pytest.raises(InputError, match=r"(?s)mpiexec has started 4 processes, but mpi4py is not.*minicnn\[mpi\]"):
            call()
    assert model.optimizer.iterations == 0 and not (tmp_path / "m.zip").exists()
    minicnn.set_group(None)  # whoever wants each to train alone says so
    model.fit(x, y, verbose=0)


def test_an_mpi4py_of_another_mpi_is_named(started_by, monkeypatch):
    import types

    world = types.SimpleNamespace(Get_size=lambda: 1)
    mpi = types.SimpleNamespace(
        COMM_WORLD=world, COMM_TYPE_SHARED=0, Get_library_version=lambda: "Another MPI 1.0, of somebody"
    )
    package = types.ModuleType("mpi4py")
    package.rc, package.MPI = types.SimpleNamespace(), mpi
    monkeypatch.setitem(sys.modules, "mpi4py", package)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: package)
    started_by("SLURM_STEP_NUM_TASKS", 2)
    distributed.join()
    with pytest.raises(InputError, match=r"(?s)srun has started 2 processes, but each sees 1.*Another MPI 1.0\."):
        minicnn.get_group()


@pytest.mark.parametrize(("name", "size"), [("OMPI_COMM_WORLD_SIZE", "1"), ("PMI_SIZE", ""), ("PMI_SIZE", "many")])
def test_a_process_that_is_alone_joins_nobody(started_by, name, size):
    started_by(name, size)
    distributed.join()
    assert minicnn.get_group().size == 1


def test_a_process_that_a_rank_has_started_is_no_rank(started_by, monkeypatch):
    started_by("OMPI_COMM_WORLD_SIZE", 2)
    monkeypatch.setenv(distributed.JOINED, "1")
    distributed.join()
    assert minicnn.get_group().size == 1
