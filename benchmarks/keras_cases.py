"""How many of the cases in Keras' own tests does minicnn pass? The files are those of an installed Keras.

    python benchmarks/keras_cases.py --keras-python ~/keras/bin/python     all areas; writes results/keras_cases.json
    python benchmarks/keras_cases.py --keras-python … --only optimizers    these only, case by case; writes nothing

The environment needs keras (with its tests, as the wheel has them), pytest, absl-py and what minicnn needs. In a
temporary folder the files' imports of Keras are exchanged for minicnn's (keras_adapter.py), and pytest runs them there.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from record import write_record

HERE = Path(__file__).parent

# What becomes of a case. Those that apply are the first three.
KINDS = {
    "pass": "as in Keras",
    "purpose": "differs on purpose: docs/keras.md says how",
    "fail": "differs",
    "missing": "needs what minicnn does not have",
    "internals": "compares sentences, dtypes or what is inside of Keras",
    "skipped": "Keras itself leaves it out",
}
APPLY = ("pass", "purpose", "fail")


@dataclass(frozen=True)
class Area:
    """Some of Keras' test files. changed: exchanged in their text, old and new, beside the imports."""

    files: tuple[str, ...]  # within keras/src, without _test.py
    changed: tuple[tuple[str, str], ...] = ()
    # Cases that did not pass and are not "fail": a regular expression for File::Class::case -> (kind, reason).
    explained: tuple[tuple[str, str, str], ...] = ()


AREAS = {
    "losses": Area(
        ("losses/losses",), explained=((r"HuberLossTest::test_config", "internals", "Keras' get_config forgets delta"),)
    ),
    "schedules": Area(("optimizers/schedules/learning_rate_schedule",)),
    "optimizers": Area(
        tuple(f"optimizers/{name}" for name in ("sgd", "adam", "adamw", "rmsprop", "adagrad", "nadam", "lion", "muon")),
        explained=(
            (r"MuonTest", "internals", "the methods of Muon's step; tests here compare its numbers"),
        ),
    ),
    "optimizers: base class": Area(
        ("optimizers/optimizer",),
        explained=(
            (r"test_callable_learning_rate", "missing", "a function as learning rate"),
            (r"test_clip_args", "purpose", "clipnorm with clipvalue"),
            (r"test_ema_with_model_fit", "purpose", "losses do not spread targets over outputs"),
            (r"test_constraints_are_applied|test_overwrite", "internals", "what a variable carries"),
            (r"test_empty_gradients|auto_naming", "internals", "lists of variables, names of optimizers"),
        ),
    ),
    "optimizers: MultiOptimizer": Area(
        ("optimizers/multi_optimizer",),
        explained=(
            (r"test_custom_callable_function", "missing", "a function as OptimizerMap"),
            (r"scheduler_with_multi|plateau_with_multi", "purpose", "a callback sets no rates of several optimizers"),
            (r"map_matching|default_fallback|initialization|test_serialization", "internals", "maps ask a variable"),
            (r"with_model_fit", "internals", "the steps of an optimizer that has no weights"),
        ),
    ),
    "metrics: accuracies": Area(
        ("metrics/accuracy_metrics",),
        explained=(
            (r"weighted_nd_broadcast", "missing", "a weight for each output"),
            (r"test_reshape_matches", "purpose", "targets and outputs have the same samples"),
        ),
    ),
    "metrics: errors": Area(("metrics/regression_metrics",)),
    "metrics: confusion": Area(
        ("metrics/confusion_metrics",),
        explained=((r"test_manual_thresholds", "purpose", "AUC's thresholds are those that were given"),),
    ),
    "metrics: F-score": Area(("metrics/f_score_metrics",)),
    "metrics: IoU": Area(
        ("metrics/iou_metrics",),
        explained=((r"user_warning_float_weight", "purpose", "weights count as they are"),),
    ),
    "metrics: entropies": Area(
        ("metrics/probabilistic_metrics",),
        explained=((r"Sparse.*::test_ignore_class", "purpose", "ignored positions are left out"),),
    ),
    "losses, metrics, initializers: base classes": Area(
        ("losses/loss", "metrics/metric", "initializers/initializer"),
        explained=((r"LossTest::test_(get_method|pickle)", "internals", "get gives the function, not the object"),),
    ),
    "initializers": Area(
        ("initializers/random_initializers", "initializers/constant_initializers"),
        explained=(
            (r"constant_initializer_array_value", "internals", "an array does not go through JSON"),
            (r"compute_fans_with_axes", "missing", "input_axes"),
            (r"test_random_normal|seed_generator", "missing", "SeedGenerator"),
        ),
    ),
    "regularizers": Area(("regularizers/regularizers",)),
    "constraints": Area(
        ("constraints/constraints",),
        explained=((r"default_constraint_call", "purpose", "Constraint is a base class only"),),
    ),
    "activations": Area(("activations/activations",)),
    "callbacks": Area(
        tuple(
            f"callbacks/{name}"
            for name in (
                "backup_and_restore", "callback", "csv_logger", "early_stopping", "lambda_callback",
                "learning_rate_scheduler", "model_checkpoint", "monitor_callback", "reduce_lr_on_plateau",
                "swap_ema_weights", "tensorboard", "terminate_on_nan",
            )
        ),
        changed=(("jit_compile=True", "jit_compile='auto'"),),
        explained=(
            (r"stop_training_csv", "purpose", "a batch that gives NaN is not learned from"),
            (r"throws_when_optimizer_has_schedule", "purpose", "InputError instead of TypeError"),
            (r"verbose_logging", "internals", "the sentence that is printed"),
            (r"reduces_lr_with_model_fit", "internals", "the rate in float32"),
            (r"TensorBoard_non_blocking", "internals", "NumPy arrays have no numpy()"),
            (r"TensorBoard_weight_images", "purpose", "a picture for each filter"),
            (r"TerminateOnNaNTest", "purpose", "targets that are not finite are refused"),
        ),
    ),  # fmt: skip
    "Sequential": Area(
        ("models/sequential",),
        explained=(
            (r"test_bad_layer", "missing", "a layer with call()"),
            (r"test_basic_flow_deferred", "purpose", "summary() of a model that is not built"),
            (r"test_dict_inputs", "missing", "several inputs or outputs"),
            (r"test_errors|test_serialization", "purpose", "build() takes no number of samples"),
            (r"test_functional_properties", "internals", "which of two symbolic values it is"),
            (r"test_hasattr", "purpose", "input_shape is None before it is known"),
        ),
    ),
    "functional": Area(
        ("models/functional",),
        explained=(
            (r"test_functional_input_shape_and_type", "internals", "isinstance(x, KerasTensor)"),
            (r"test_named_input_dict_io", "missing", "several inputs or outputs"),
        ),
    ),
    "Model": Area(("models/model",)),
    "clone_model": Area(
        ("models/cloning",),
        explained=((r"test_call_fn|test_shared_layers_cloning", "purpose", "Model.layers has no layer for the input"),),
    ),
    "fit, evaluate, predict": Area(
        ("trainers/trainer",),
        changed=(
            # The model of most cases is a layer and a trainer at once. Here: a model that holds this layer.
            (
                "class ExampleModel(Trainer, layers.Dense):",
                "from keras.adapter import ExampleModel\n\nclass Unused(Trainer, layers.Dense):",
            ),
            ("    raise ImportError(", "    from keras.adapter import Trainer\n    ("),
            ("        jit_compile = True\n", '        jit_compile = "auto"\n'),
            ("with backend.device(CPU_DEVICES[backend.backend()]):", "if True:"),
            ("import grain\n", "from keras.adapter import grain\n"),
        ),
        explained=(
            (r"with_custom_(train|test)_step", "missing", "train_step and test_step of one's own"),
            (r"test_max_epochs_and_steps", "internals", "a setting of Keras"),
            (r"test_multiple_compiles|test_nested_trainer_metrics", "internals", "model.metrics begins with the loss"),
            (r"steps_per_epoch_match_multi_epoch", "missing", "a metric that counts on through the epochs"),
            (r"not_match_|test_fit_flow_steps_per_epoch", "purpose", "steps_per_epoch batches in every epoch"),
            (r"data_adapter_generator$", "purpose", "a generator for several epochs needs steps"),
        ),
    ),
    "image_dataset_from_directory": Area(
        ("utils/image_dataset_utils",),
        explained=(
            (r"not_batched_tf", "missing", "batch_size=None"), (r"test_static_shape_in_graph", "missing", "tf.data"),
        ),
    ),
    "save_img, load_img": Area(("utils/image_utils",)),
    "utils": Area(
        ("utils/numerical_utils", "utils/rng_utils", "utils/dataset_utils", "utils/summary_utils"),
        explained=(
            (r"split_dataset_(list|tuple)_.*_none", "purpose", "split_dataset gives arrays"),
            (r"split_dataset_(tensorflow|torch|nested)", "missing", "datasets of other libraries in split_dataset"),
            (r"global_seed_generator", "internals", "random numbers of Keras"),
            (r"summary_op_as_layer", "missing", "operations on symbolic values"),
        ),
    ),
    "saving": Area(
        ("saving/saving_lib", "saving/saving_api", "legacy/saving/legacy_h5_format"),
        explained=(
            (r"test_directory_creation_on_save", "purpose", "the folder of a file must be there"),
            (r"test_save_h5_format", "internals", "a warning that .h5 is old"),
            (r"test_save_unsupported_extension", "purpose", "any ending is a name"),
            (r"test_load_model_containing_reused_layer", "purpose", "Model.layers has no layer for the input"),
            (r"test_save_model_exception_raised", "missing", "a layer with call()"),
            (r"test_save_to_fileobj", "missing", "files that are open"),
            (r"test_custom_object_without_from_config", "missing", "an activation of one's own without a derivative"),
            (r"legacy_load_skips_missing", "skipped", "its file is not in the package"),
            (r"rejects_extraction_bomb", "internals", "minicnn unpacks no file; its own limits have tests here"),
        ),
    ),
}

# Pipelines of other libraries, in whose graphs layers of Keras can stand.
_PIPELINES = (
    ("from tensorflow import data as tf_data", "from keras.adapter import tf_data"),
    ("import grain", "from keras.adapter import grain"),
)


def _layers(
    folder: str,
    *names: str,
    changed: tuple[tuple[str, str], ...] = (),
    explained: tuple[tuple[str, str, str], ...] = (),
) -> Area:
    return Area(tuple(f"layers/{folder}/{name}" for name in names), changed, explained)


_LORA = (r"lora", "missing", "LoRA")
_VARIABLES = (r"constraints$", "purpose", "weights are arrays")
_AUTOCAST = (r"autocast_scope", "missing", "mixed precision")
_SIZES = (r"dynamic_spatial_dims|dynamic_dimen|varying_input_size", "missing", "sizes that are not known beforehand")

AREAS |= {
    "layers: Conv": _layers(
        "convolutional", "conv",
        explained=(_LORA, _VARIABLES, (r"bad_init_args", "purpose", "strides and dilation together are computed")),
    ),
    "layers: ConvTranspose": _layers("convolutional", "conv_transpose"),
    "layers: DepthwiseConv": _layers("convolutional", "depthwise_conv"),
    "layers: SeparableConv": _layers("convolutional", "separable_conv"),
    "layers: pooling": _layers(
        "pooling", "max_pooling", "average_pooling", "global_max_pooling", "global_average_pooling",
        explained=((r"AveragePoolingCorrectnessTest::test_global_average_pooling1d", "missing", "masks"),),
    ),
    "layers: BatchNormalization": _layers(
        "normalization", "batch_normalization",
        changed=(("        # Masked result with no training", "        return  # before its masks\n        #"),),
        explained=(_AUTOCAST, (r"masked", "missing", "masks")),
    ),
    "layers: Layer-, GroupNormalization": _layers(
        "normalization", "layer_normalization", "group_normalization",
        explained=(_AUTOCAST, (r"invalid_axis", "purpose", "InputError instead of TypeError")),
    ),
    "layers: Dense": _layers(
        "core", "dense", explained=(_LORA, _VARIABLES, (r"quantize|awq|gptq", "missing", "quantisation"))
    ),
    "layers: Input, Identity, Lambda": _layers(
        "core", "input_layer", "identity", "lambda_layer",
        explained=((r"input_basic_dense", "internals", "KerasTensor"),),
    ),
    "layers: reshaping": _layers(
        "reshaping", "flatten", "reshape", "permute", "up_sampling2d", "zero_padding2d", "cropping2d",
        explained=(_SIZES, (r"flatten_with_scalar_channels", "missing", "samples of a single number")),
    ),
    "layers: dropout, noise": _layers(
        "regularization", "dropout", "spatial_dropout", "gaussian_noise", "gaussian_dropout", "alpha_dropout",
        "activity_regularization",
        explained=(
            (r"^DropoutTest::.*noise_shape_(static|cast|integer)", "purpose", "noise_shape with a batch size"),
            (r"test_dropout_rescaling", "internals", "the mean of 10,000 random numbers of one seed"),
        ),
    ),
    "layers: activations": _layers("activations", "activation", "elu", "leaky_relu", "prelu", "relu", "softmax"),
    "layers: merging": _layers(
        "merging", "merging",
        changed=(  # the layer itself in the place of a model of two inputs, and no masks
            ("models.Model([input_1, input_2], out)", "layer"),
            ("self.assertIsNone(layer.compute_mask(", "return; self.assertIsNone(layer.compute_mask("),
        ),
    ),
    "layers: Rescaling, Normalization": _layers(
        "preprocessing", "rescaling", "normalization",
        changed=_PIPELINES,
        explained=(
            (r"batch_without_shape", "purpose", "InputError instead of TypeError"),
            (r"channels_first", "missing", "channels_first"),
        ),
    ),
    "layers: images": _layers(
        "preprocessing/image_preprocessing", "resizing", "center_crop", "random_flip", "random_rotation", "random_zoom",
        "random_translation",
        changed=_PIPELINES, explained=((r"bounding_box", "missing", "bounding boxes"), _SIZES),
    ),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keras-python", default=sys.executable, help="the Python that has Keras")
    parser.add_argument("--only", default="", help="areas with this in their name")
    args = parser.parse_args()
    areas = {title: area for title, area in AREAS.items() if args.only in title}
    if not areas:
        parser.error(f"no area has {args.only!r} in its name; there are {', '.join(AREAS)}")
    source, versions = installed(args.keras_python)
    with tempfile.TemporaryDirectory() as folder:
        files = write_files(Path(folder), source, areas)
        found = run(args.keras_python, Path(folder))
    for case in found:
        case["area"] = files[case.pop("file")]
    unused = explain(found)
    table = {title: count([case for case in found if case["area"] == title]) for title in areas}
    show(table, found, bool(args.only))
    for area, pattern in unused:
        print(f"explains nothing: {area}: {pattern}")
    if not args.only:
        others = [case for case in found if case["kind"] != "pass"]
        results = {"kinds": KINDS, "areas": table, "sum": count(found), "cases": others}
        write_record(HERE / "results" / "keras_cases.json", results, keras=versions)


def installed(python: str) -> tuple[Path, dict[str, str]]:
    """Where Keras' source lies, and the versions that its tests run with."""
    code = (
        "import importlib.metadata as m, importlib.util as u, json;"
        "print(json.dumps([u.find_spec('keras').submodule_search_locations[0],"
        " {n: m.version(n) for n in ('keras', 'numpy', 'pytest')}]))"
    )
    try:
        done = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        last = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1]
        sys.exit(
            f"Keras' own tests were not found.\n  Expected: a Python that has keras and pytest.\n  Received: {python}: "
            f"{last}\n  What to do: name one with --keras-python."
        )
    path, versions = json.loads(done.stdout)
    return Path(path) / "src", versions


def write_files(folder: Path, source: Path, areas: dict[str, Area]) -> dict[str, str]:
    """The test files with their imports exchanged; returns the area of each."""
    written = {}
    for title, area in areas.items():
        for name in area.files:
            text = (source / f"{name}_test.py").read_text(encoding="utf-8")
            for old, new in area.changed:
                text = text.replace(old, new)
            file = f"{name.replace('/', '_')}_test.py"
            (folder / file).write_text(rewritten(text), encoding="utf-8")
            written[file] = title
    (folder / "conftest.py").write_text("from keras_adapter import skip_if_backend\n", encoding="utf-8")
    return written


def rewritten(source: str) -> str:
    """A test file with stand-ins for all that it imports from Keras."""
    lines = source.split("\n")
    stand_in = "__import__('keras_adapter').stand_in"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "keras":
            names = [(alias.asname or alias.name, alias.name) for alias in node.names]
            new = "; ".join(f"{here} = {stand_in}({node.module!r}, {there!r})" for here, there in names)
        elif isinstance(node, ast.Import) and node.names[0].name == "keras":
            new = f"keras = {stand_in}('keras')"
        else:
            continue
        lines[node.lineno - 1] = " " * node.col_offset + new
        lines[node.lineno : node.end_lineno] = [""] * ((node.end_lineno or node.lineno) - node.lineno)
    return "\n".join(lines)


def run(python: str, folder: Path) -> list[dict[str, Any]]:
    """Run them; every case with its file, kind and reason."""
    answer = folder / "cases.json"
    paths = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    command = [python, "-m", "pytest", "-q", "--tb=short", "-W", "ignore", "-p", "keras_adapter"]
    ran = subprocess.run(
        [*command, "-p", "no:cacheprovider", "--rootdir", str(folder), str(folder)],
        cwd=folder, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": paths, "KERAS_CASES": str(answer), "KERAS_BACKEND": "numpy"},
    )  # fmt: skip
    if ran.returncode > 1 or not answer.exists():  # 1: some cases failed
        raise SystemExit(f"{ran.stdout[-5000:]}{ran.stderr[-5000:]}")
    return json.loads(answer.read_text(encoding="utf-8"))


def explain(cases: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Give cases that did not pass the kind and reason that their area says; returns the entries without a case."""
    unused = {(case["area"], entry[0]) for case in cases for entry in AREAS[case["area"]].explained}
    for case in cases:
        for pattern, kind, reason in AREAS[case["area"]].explained:
            if case["kind"] not in ("pass", "skipped") and re.search(pattern, case["case"]):
                case["kind"], case["reason"] = kind, reason
                unused.discard((case["area"], pattern))
    return sorted(unused)


def count(cases: list[dict[str, Any]]) -> dict[str, int]:
    counted = Counter(case["kind"] for case in cases)
    return {"cases": len(cases), "apply": sum(counted[kind] for kind in APPLY), **{k: counted[k] for k in KINDS}}


def show(table: dict[str, dict[str, int]], cases: list[dict[str, Any]], each: bool) -> None:
    for case in cases:
        if case["kind"] == "fail" or (each and case["kind"] != "pass"):
            print(f"{case['kind']:10} {case['area']}: {case['case']}: {case['reason']}")
    columns = ["cases", "apply", *KINDS]
    print(f"{'':32}" + "".join(f"{column:>10}" for column in columns))
    for title, counted in [*table.items(), ("sum", count(cases))]:
        print(f"{title:32}" + "".join(f"{counted[column]:10}" for column in columns))


if __name__ == "__main__":
    main()
