"""A short run of the fuzzer; and that the fuzzer itself would find faults."""

from __future__ import annotations

import sys

import pytest

pytest.importorskip("h5py", reason='Keras\' files are read with h5py: python -m pip install ".[keras]"')
pytest.importorskip("PIL")
if sys.platform == "win32":
    pytest.skip("the fuzzer limits its worker by means that Windows does not have", allow_module_level=True)

import fuzz

from minicnn.datasets import cifar10


@pytest.fixture(scope="module", autouse=True)
def _archives_of_their_own_size():
    whole = cifar10._PER_BATCH  # the fuzzer's archives of photos are small ones
    yield
    cifar10._PER_BATCH = whole


@pytest.fixture(scope="module")
def answers():
    return list(fuzz.run(200, seed=1))


def test_damaged_files_end_in_success_or_in_an_error_of_ours(answers):
    faults = [a for a in answers if a["end"] == "fault"]
    assert faults == [], "\n".join(f"python tests/fuzz.py --seed 1 --only {a['number']}: {a['error']}" for a in faults)


def test_the_cases_are_of_every_kind_and_most_of_them_are_damaged_for_good(answers):
    result = fuzz.summary(answers)
    assert len(result["by_kind"]) == 21
    assert result["ends"]["refused"] > 80 and result["ends"]["read"] > 20


def test_the_fuzzer_finds_readers_that_misbehave():
    """One that dies is followed by a new worker; on other systems than Linux the memory is not limited."""
    kinds = list(fuzz.misbehaving())
    ends = [answer["end"] for answer in fuzz.run(len(kinds), seed=0, badly=True)]
    assert ends[-2:] == ["refused", "read"]
    assert ends[1:-2] == ["fault"] * (len(kinds) - 3)
    assert ends[0] == "fault" or not sys.platform.startswith("linux")


def test_a_case_depends_on_seed_and_number_alone(tmp_path):
    corpus = fuzz.make_corpus(tmp_path)
    cases = [fuzz.damaged(corpus, 5, number) for number in range(20)]
    assert cases == [fuzz.damaged(corpus, 5, number) for number in range(20)]
    assert len({content for *_, content in cases}) > 15
