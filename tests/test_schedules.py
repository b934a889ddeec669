"""Learning-rate schedules, against values recorded from Keras 3 and against their formulae."""

import math

import pytest

from minicnn import schedules
from minicnn.errors import InputError, UnknownNameError


def config_dict(obj):
    return {"class_name": type(obj).__name__, "config": obj.get_config()}


STEPS = [0, 1, 37, 99, 100, 101, 250, 1000]

# Recorded from keras.optimizers.schedules (Keras 3.15, float32).
KERAS = [
    (schedules.ExponentialDecay(0.1, 100, 0.96),
     [0.1, 0.09995919, 0.09850094, 0.09603920, 0.096, 0.09596082, 0.09029799, 0.06648325]),
    (schedules.ExponentialDecay(0.1, 100, 0.96, staircase=True),
     [0.1, 0.1, 0.1, 0.1, 0.096, 0.096, 0.09216, 0.06648325]),
    (schedules.PiecewiseConstantDecay([100, 250], [1.0, 0.5, 0.1]), [1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.1]),
    (schedules.PolynomialDecay(0.1, 100, 0.01, power=2.0),
     [0.1, 0.09820900, 0.04572100, 0.01000900, 0.01, 0.01, 0.01, 0.01]),
    (schedules.PolynomialDecay(0.1, 100, 0.01, power=0.5, cycle=True),
     [0.1, 0.09954887, 0.08143529, 0.01900000, 0.01, 0.07332061, 0.04674235, 0.01]),
    (schedules.InverseTimeDecay(0.1, 100, 0.5),
     [0.1, 0.09950249, 0.08438819, 0.06688964, 0.06666667, 0.06644519, 0.04444445, 0.01666667]),
    (schedules.InverseTimeDecay(0.1, 100, 0.5, staircase=True),
     [0.1, 0.1, 0.1, 0.1, 0.06666667, 0.06666667, 0.05, 0.01666667]),
    (schedules.CosineDecay(0.1, 200, alpha=0.1),
     [0.1, 0.09999445, 0.09261134, 0.05570683, 0.055, 0.05429317, 0.01, 0.01]),
    (schedules.CosineDecay(0.01, 200, alpha=0.05, warmup_target=0.1, warmup_steps=50),
     [0.01, 0.0118, 0.0766, 0.08661100, 0.08608758, 0.08555586, 0.005, 0.005]),
]  # fmt: skip


@pytest.mark.parametrize(("schedule", "expected"), KERAS)
def test_values_equal_keras(schedule, expected):
    values = [schedule(step) for step in STEPS]
    assert all(type(v) is float for v in values)
    assert values == pytest.approx(expected, rel=2e-6)


@pytest.mark.parametrize("schedule", [s for s, _ in KERAS])
def test_config_round_trip(schedule):
    again = schedules.get(config_dict(schedule))
    assert type(again) is type(schedule)
    assert [again(s) for s in STEPS] == [schedule(s) for s in STEPS]
    assert type(schedule).from_config(schedule.get_config())(37) == schedule(37)


def test_formulae():
    assert schedules.ExponentialDecay(0.2, 10, 0.5)(25) == pytest.approx(0.2 * 0.5**2.5)
    assert schedules.InverseTimeDecay(0.2, 10, 0.5)(25) == pytest.approx(0.2 / (1 + 0.5 * 2.5))
    assert schedules.CosineDecay(0.2, 10)(5) == pytest.approx(0.2 * 0.5 * (1 + math.cos(math.pi / 2)))


def test_warmup_without_steps_starts_at_the_target():
    assert schedules.CosineDecay(0.0, 10, warmup_target=0.1)(0) == 0.1


def test_own_schedule_passes_through_get():
    class Own(schedules.LearningRateSchedule):
        def __call__(self, step):
            return 0.1 / (step + 1)

    own = Own()
    assert schedules.get(own) is own


def test_bad_arguments():
    with pytest.raises(InputError, match="decay_steps does not fit"):
        schedules.CosineDecay(0.1, 0)
    with pytest.raises(InputError, match="one value more"):
        schedules.PiecewiseConstantDecay([1, 2], [0.1, 0.2])
    with pytest.raises(InputError, match="increasing boundaries"):
        schedules.PiecewiseConstantDecay([2, 1], [0.1, 0.2, 0.3])
    with pytest.raises(UnknownNameError, match="did you mean 'CosineDecay'"):
        schedules.get({"class_name": "CosinDecay", "config": {}})
