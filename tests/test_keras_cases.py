"""benchmarks/keras_cases.py without Keras: what it makes of a test file, and what it makes of its cases."""

import importlib.util
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"
sys.path.append(str(FOLDER))
SPEC = importlib.util.spec_from_file_location("benchmarks_keras_cases", FOLDER / "keras_cases.py")
keras_cases = importlib.util.module_from_spec(SPEC)
sys.modules["benchmarks_keras_cases"] = keras_cases  # dataclasses look for their module
SPEC.loader.exec_module(keras_cases)


def test_imports_of_keras_are_exchanged_and_lines_stay_where_they_were():
    source = """import numpy as np
from keras.src.losses import (
    losses,
)
from keras.src import testing, ops as o
def case():
    import keras
    return "from keras.src import ops", kerastuner
"""
    new = keras_cases.rewritten(source).split("\n")
    place = "__import__('keras_adapter').stand_in"
    assert new[1] == f"losses = {place}('keras.src.losses', 'losses')"
    assert new[2:4] == ["", ""]
    assert new[4] == f"testing = {place}('keras.src', 'testing'); o = {place}('keras.src', 'ops')"
    assert new[6] == f"    keras = {place}('keras')"
    assert new[7] == source.split("\n")[7]
    assert len(new) == len(source.split("\n"))


def test_explanations_never_touch_what_passed_and_those_without_a_case_are_told(monkeypatch):
    area = keras_cases.Area(("a/b",), explained=(("One", "purpose", "because"), ("Two", "missing", "a class")))
    monkeypatch.setattr(keras_cases, "AREAS", {"area": area})
    cases = [
        {"area": "area", "case": "One::case", "kind": "fail", "reason": "1 != 2"},
        {"area": "area", "case": "Two::case", "kind": "pass", "reason": ""},
        {"area": "area", "case": "Three::case", "kind": "fail", "reason": "3 != 4"},
    ]
    assert keras_cases.explain(cases) == [("area", "Two")]
    assert [(case["kind"], case["reason"]) for case in cases] == [
        ("purpose", "because"), ("pass", ""), ("fail", "3 != 4"),
    ]  # fmt: skip
    counted = keras_cases.count(cases)
    assert (counted["cases"], counted["apply"], counted["pass"], counted["fail"]) == (3, 3, 1, 1)


@pytest.mark.parametrize("title", keras_cases.AREAS)
def test_every_explanation_is_of_a_known_kind(title):
    for _, kind, reason in keras_cases.AREAS[title].explained:
        assert kind in ("purpose", "missing", "internals", "skipped")
        assert reason
