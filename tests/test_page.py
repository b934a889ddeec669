"""The page: what is in it, that names stay inert, and (where a Chromium is installed) that it computes and can be used.

The arithmetic of the page is tested by its own self-test, on models with every kind of layer, loss and optimizer.
"""

from __future__ import annotations

import base64
import hashlib
import html.parser
import importlib.resources
import json
import os
import re
import select
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from minicnn import activations, constraints, optimizers, regularizers
from minicnn.errors import InputError
from minicnn.inspect.page import build, checks, page_html, write_page
from minicnn.inspect.trace import Trace, trace
from minicnn.layers import (
    ELU,
    Activation,
    Add,
    Average,
    AveragePooling2D,
    BatchNormalization,
    Concatenate,
    Conv2D,
    Conv2DTranspose,
    Dense,
    DepthwiseConv2D,
    Dropout,
    Flatten,
    GlobalAveragePooling2D,
    Input,
    Layer,
    LeakyReLU,
    Maximum,
    MaxPooling2D,
    Multiply,
    ReLU,
    Rescaling,
    SeparableConv2D,
    Softmax,
    Subtract,
    ZeroPadding2D,
)
from minicnn.models import Model, Sequential
from minicnn.random import seed

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HOSTILE = "</script><img src=x onerror=alert(1)><!--\u2028'\"&amp;"


class Doubled(Layer):
    """A layer of the user's own, which the page knows nothing about."""

    def forward(self, x, ctx):
        return 2 * x

    def backward(self, dy, ctx):
        return 2 * dy


def _trace(
    layers,
    loss="sparse_categorical_crossentropy",
    optimizer="adam",
    classes=4,
    n=6,
    training=True,
    y=None,
    shape=(9, 8, 2),
    steps=1,
    dtype="float32",
):
    seed(1)
    seed(1)
    model = Sequential(layers)
    rng = np.random.default_rng(2)
    x = rng.normal(size=(n, *shape)).astype(dtype)
    model.build((None, *shape))
    model.compile(optimizer, loss)
    if y is None:
        y = rng.integers(0, classes, n)
    for _ in range(steps):
        model.fit(x, y, batch_size=n, epochs=1, verbose=0)
    return trace(model, x, y, training=training)


def _small(**options):
    return _trace(
        [
            Conv2D(3, 3, padding="same"),
            BatchNormalization(),
            Activation("relu"),
            MaxPooling2D(2),
            Dropout(0.25),
            Conv2D(4, 2, activation="relu"),
            Flatten(),
            Dense(4, activation="softmax"),
        ],
        **options,
    )


def _softplus_targets(n, k, seed=3):
    t = np.random.default_rng(seed).random((n, k)).astype(np.float32)
    return t / t.sum(axis=1, keepdims=True)


def _biases_without_decay(optimizer):
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    return optimizer


ZOO = {
    "small": _small,
    "evaluation": lambda: _small(training=False),
    "float64": lambda: _trace(
        [Flatten(), Dense(5, activation="tanh"), Dense(4)], loss="mse", y=np.random.default_rng(1).normal(size=(6, 4))
    ),
    "dense": lambda: _trace([Flatten(), Dense(16, activation="relu"), Dense(4, activation="softmax")], optimizer="sgd"),
    "geometry": lambda: _trace(
        [
            Rescaling(0.5, 0.1),
            Conv2D(3, (3, 2), strides=(2, 1), padding=((1, 2), (0, 1)), use_bias=False, activation="elu"),
            MaxPooling2D(3, strides=2, padding="same"),
            Conv2D(5, 2, dilation_rate=(1, 2), padding="same", activation="gelu"),
            AveragePooling2D(2, strides=1, padding="same"),
            LeakyReLU(0.1),
            GlobalAveragePooling2D(),
            Dense(4),
            Softmax(),
        ],
        optimizer=optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    ),
    "penalties": lambda: _trace(
        [
            Conv2D(3, 3, kernel_regularizer=regularizers.L2(0.01), activation="leaky_relu"),
            ReLU(max_value=1.0),
            ELU(0.7),
            Flatten(),
            Dense(6, kernel_constraint=constraints.MaxNorm(0.5), activation="sigmoid"),
            BatchNormalization(),
            Dense(3, kernel_regularizer="l1_l2", kernel_constraint="unit_norm", activation="sigmoid"),
        ],
        loss="binary_crossentropy",
        optimizer=optimizers.RMSprop(0.01, momentum=0.5, centered=True),
        y=np.random.default_rng(1).integers(0, 2, (6, 3)),
    ),
    "soft targets": lambda: _trace(
        [
            Flatten(),
            BatchNormalization(center=False, trainable=False),
            Dense(4, trainable=False),
            Activation("softmax"),
            Dense(4, activation="softmax"),
        ],
        loss={"class_name": "CategoricalCrossentropy", "config": {"label_smoothing": 0.1}},
        optimizer=optimizers.AdamW(0.01, clipvalue=0.05),
        y=_softplus_targets(6, 4),
        steps=3,
    ),
    "logits": lambda: _trace(
        [Conv2D(2, 3), MaxPooling2D(2), Flatten(), Dense(4)],
        loss={"class_name": "SparseCategoricalCrossentropy", "config": {"from_logits": True}},
        optimizer=optimizers.Adam(clipnorm=0.1),
    ),
    "unfused": lambda: _trace(
        [Flatten(), Dense(4, activation="sigmoid")], loss="categorical_crossentropy", y=_softplus_targets(6, 4)
    ),
    "sum": lambda: _trace(
        [Flatten(), Dense(4, activation="softmax")],
        loss={"class_name": "SparseCategoricalCrossentropy", "config": {"reduction": "sum"}},
    ),
    "ignored": lambda: _trace(
        [Flatten(), Dense(4, activation="softmax")],
        loss={"class_name": "SparseCategoricalCrossentropy", "config": {"ignore_class": 1}},
    ),
    "huber": lambda: _trace([Flatten(), Dense(3)], loss="huber", y=np.random.default_rng(1).normal(size=(6, 3))),
    "absolute": lambda: _trace([Flatten(), Dense(3)], loss="mae", y=np.random.default_rng(1).normal(size=(6, 3))),
    "options": lambda: _trace(
        [
            Rescaling([0.5, 2.0], [0.1, -0.2]),
            BatchNormalization(gamma_regularizer="l2"),
            Conv2D(3, 3, activation="silu"),
            Dropout(0.4, noise_shape=(None, 1, 1, 3)),
            GlobalAveragePooling2D(keepdims=True),
            Flatten(),
            Dense(4, activation="softmax"),
        ]
    ),
    "activations": lambda: _trace(
        [
            Activation("silu"), Conv2D(3, 2, activation="mish"), Activation("softsign"), Activation("selu"),
            Activation("hard_sigmoid"), Flatten(), Dense(9, activation="softplus"), Activation("relu6"),
            Dense(8, activation="exponential"), Dense(6, activation="log_softmax"), Activation("log_softmax"),
            Dense(4, activation="softmax"),
        ]
    ),
    "nadam": lambda: _trace([Flatten(), Dense(4, activation="softmax")], optimizer="nadam", steps=3),
    "adagrad": lambda: _trace([Flatten(), Dense(4, activation="softmax")], optimizer="adagrad", steps=2),
    "lion": lambda: _trace([Flatten(), Dense(4, activation="softmax")], optimizer="lion", steps=2),
    "amsgrad": lambda: _trace(
        [Flatten(), Dense(4, activation="softmax")], optimizer=optimizers.Adam(0.05, amsgrad=True), steps=3
    ),
    "muon": lambda: _trace(
        [Flatten(), Dense(3), Dense(4, activation="softmax", kernel_constraint="max_norm")],
        optimizer=optimizers.Muon(0.1, adam_lr_ratio=0.5), steps=2,
    ),
    "biases without decay": lambda: _trace(
        [Flatten(), Dense(4, activation="softmax", kernel_constraint="max_norm", bias_constraint="unit_norm")],
        optimizer=_biases_without_decay(optimizers.SGD(0.1, weight_decay=0.5)), steps=2,
    ),
    "certain": lambda: _trace(  # p is so close to t that p - t has few digits left
        [Flatten(), Dense(16, activation="relu"), Dense(4, activation="softmax")],
        optimizer=optimizers.Adam(0.05),
        steps=80,
    ),
    "many images": lambda: _small(n=40),
    "one image": lambda: _trace(
        [Conv2D(2, 3, activation="relu"), AveragePooling2D(2), Flatten(), Dense(4, activation="softmax")], n=1
    ),
    "transposed": lambda: _trace(
        [
            Conv2D(3, 3, strides=2, activation="relu"),
            Conv2DTranspose(2, (3, 2), strides=(2, 1), padding="same", activation="tanh", kernel_regularizer="l2"),
            Conv2DTranspose(3, 2, strides=3, use_bias=False, kernel_constraint="max_norm"),
            Flatten(),
            Dense(4, activation="softmax"),
        ]
    ),
    "apart": lambda: _trace(
        [
            DepthwiseConv2D(3, depth_multiplier=3, activation="relu", depthwise_constraint="max_norm"),
            Conv2D(4, (3, 2), strides=(2, 1), padding="same", groups=2, activation="tanh"),
            DepthwiseConv2D(2, dilation_rate=2, padding=1, use_bias=False),
            SeparableConv2D(3, 2, activation="relu"),
            Flatten(),
            Dense(4, activation="softmax"),
        ]
    ),
    "own layer": lambda: _trace([Conv2D(2, 3), Doubled(), Flatten(), Dense(4, activation="softmax")]),
    "nested": lambda: _trace(
        [Sequential([Conv2D(2, 3), Activation("relu")], name="inner"), Flatten(), Dense(4, activation="softmax")]
    ),
}


def _residual(x):
    a = Conv2D(4, 3, padding="same", activation="relu")(x)
    b = BatchNormalization()(Conv2D(4, 3, padding="same")(a))
    y = ReLU()(Add()([a, b]))
    pooled, narrow = MaxPooling2D(3, padding="same")(y), Conv2D(3, 1, strides=3, activation="relu")(y)
    return Dropout(0.2)(Concatenate()([pooled, narrow]))


def _merges(x):
    p = ZeroPadding2D(((1, 0), (2, 1)))(x)
    a, b = Conv2D(4, 2, activation="relu")(p), Conv2D(4, 2, activation="tanh")(p)
    y = Maximum()([Average()([Subtract()([a, b]), Multiply()([a, b]), a]), b])
    gate = Dense(4, activation="sigmoid")(AveragePooling2D((9, 10))(y))
    shared = Dense(4, activation="relu")
    return shared(shared(GlobalAveragePooling2D()(Multiply()([y, gate]))))


def _branching(build, training=True):
    seed(1)
    x = Input((9, 8, 2))
    model = Model(x, Dense(4, activation="softmax")(Flatten()(build(x))))
    model.compile("adam", "sparse_categorical_crossentropy")
    rng = np.random.default_rng(2)
    images, labels = rng.normal(size=(6, 9, 8, 2)), rng.integers(0, 4, 6)
    model.fit(images, labels, epochs=1, verbose=0)
    return trace(model, images, labels, training=training)


ZOO |= {"residual": lambda: _branching(_residual), "merges": lambda: _branching(_merges)}


@pytest.fixture(scope="module")
def small():
    return _small()


@pytest.fixture(scope="module")
def large():
    """The documents' CIFAR-10 network in its sizes, with fewer of its layers."""
    model = Sequential([Conv2D(32, 3, padding="same", input_shape=(32, 32, 3)), Activation("relu")])
    for filters in (64, 64, 128):
        model.add(Dropout(0.2))
        model.add(BatchNormalization())
        model.add(Conv2D(filters, 3, padding="same"))
        model.add(Activation("relu"))
        if filters == 64:
            model.add(MaxPooling2D(2))
    for layer in (
        Flatten(),
        Dense(256, kernel_constraint=constraints.MaxNorm(3)),
        Activation("relu"),
        Dense(10),
        Activation("softmax"),
    ):
        model.add(layer)
    model.compile("adam", "sparse_categorical_crossentropy")
    rng = np.random.default_rng(0)
    return trace(model, rng.random((4, 32, 32, 3), dtype=np.float32), np.arange(4))


def _data(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


def _embedded(data, number):
    """The parts of a tensor: (indices along each axis, array)."""
    tensor = data["tensors"][number]
    for part in tensor["parts"]:
        at = [list(range(n)) if a is None else a for a, n in zip(part["at"], tensor["shape"], strict=True)]
        raw = np.frombuffer(base64.b64decode(data["pool"][part["pool"]]), "<" + part["kind"])
        yield np.ix_(*at), raw.reshape([len(a) for a in at])


# ---- the file -----------------------------------------------------------------------------------------------------


def test_the_file_loads_nothing(small):
    page = page_html(small)
    for address in (
        "http:",
        "https:",
        "//www",
        "@import",
        "url(",
        "WebSocket",
        " src=",
        "fetch(",
        "XMLHttpRequest",
        "<link",
    ):
        assert address not in page, address


def test_policy_allows_exactly_the_inlined_style_and_script(small):
    page = page_html(small)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    for directive, element in (("script-src", r"<script>(.*?)</script>"), ("style-src", r"<style>(.*?)</style>")):
        digest = base64.b64encode(hashlib.sha256(re.search(element, page, re.S)[1].encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}';" in policy


def test_the_script_can_be_read():
    folder = importlib.resources.files(build.__package__)
    for name in build.SCRIPT:
        long = [line for line in (folder / name).read_text("utf-8").splitlines() if len(line) > 120]
        assert not long, (name, long)


def test_the_page_knows_every_activation():
    script = (importlib.resources.files("minicnn.inspect.page") / "arithmetic.js").read_text("utf-8")
    names = {found.name for found in vars(activations).values() if isinstance(found, activations.Function)}
    for table in ("pointwise", "slopes", "slopeText"):
        body = re.search(rf"const {table} = {{(.*?)\n}};", script, re.DOTALL)[1]
        # Here leaky ReLU and ReLU6 are a ReLU with a slope, and with a top; the other two look at a whole row.
        missing = {name for name in names if not re.search(rf"\b{name}[:,]", body)}
        assert missing <= {"leaky_relu", "relu6", "softmax", "log_softmax"}, table


def test_same_trace_same_bytes(small, tmp_path):
    small.save(tmp_path / "t.npz")
    write_page(small, tmp_path / "a.html")
    write_page(Trace.load(tmp_path / "t.npz"), tmp_path / "b.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def _check_arrays(t, image, data):
    seen = 0
    for layer, record in zip(t.layers, data["layers"], strict=True):
        groups = {"p": layer.params, "g": layer.grads, "a": layer.applied, "u": layer.updated, "s": layer.slots}
        groups |= {"t": layer.slots_after, "r": layer.state, "q": layer.state_after}
        for name, number in record["t"].items():
            group, _, rest = name.partition("/")
            if group in ("share", "factor", "bx", "bdz"):
                continue
            if group in groups and rest:
                source = groups[group][rest]
            else:
                source = vars(layer).get(name, layer.kept.get(name))
                source = source if name in ("mean", "var") else source[image]
            for at, part in _embedded(data, number):
                np.testing.assert_array_equal(part, source[at])
                seen += part.size
    return seen


def test_embedded_arrays_equal_the_trace(small):
    data = _data(page_html(small, image=3))
    assert data["level"] == 0
    assert _check_arrays(small, 3, data) > sum(layer.y[0].size for layer in small.layers)


def test_large_network_is_trimmed_to_the_limit_and_says_so(large):
    page = page_html(large)
    data = _data(page)
    assert len(page.encode()) <= build.MAX_BYTES
    assert data["level"] > 0 and data["trim"] == vars(build.LEVELS[data["level"]])
    assert _check_arrays(large, 0, data) > 100_000


def test_shares_add_up_to_the_gradient(small):
    data = _data(page_html(small))
    for k in (0, 5):
        for name in ("w", "b"):
            ((_, share),) = _embedded(data, data["layers"][k]["t"][f"share/{name}"])
            np.testing.assert_allclose(share.sum(axis=0), small.layers[k].grads[name], rtol=1e-4, atol=1e-6)


def test_gradient_checks_agree_with_the_recorded_gradients(small):
    found = _data(page_html(small))["check"]
    assert {small.layers[c["layer"]].kind for c in found} == {"Conv2D", "BatchNormalization", "Dense"}
    for c in found:
        recorded = small.layers[c["layer"]].grads[c["param"]][tuple(c["index"])]
        assert abs(c["exact"] - recorded) <= 1e-4 * abs(recorded) + c["noise"]
        quotients = [(a - b) / (2 * h) for (a, b), h in zip(c["float64"], checks.STEPS, strict=True)]
        assert min(abs(q - c["exact"]) for q in quotients) <= 1e-5 * abs(c["exact"]) + c["noise"]


class _Tags(html.parser.HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.tags = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)


def _hostile():
    name = HOSTILE.replace("/", "|")
    model = Sequential([Conv2D(2, 3, name=name), Flatten(), Dense(2, activation="softmax")], name=name)
    model.build((None, 5, 5, 1))
    model.class_names = [HOSTILE, "b"]
    model.compile("adam", "sparse_categorical_crossentropy")
    t = trace(model, np.random.default_rng(0).normal(size=(2, 5, 5, 1)), np.array([0, 1]))
    t.model_name = HOSTILE
    return t


def test_names_never_become_markup(small):
    page = page_html(_hostile())
    assert _Tags(page).tags == _Tags(page_html(small)).tags
    assert "\u2028" not in re.search(r'id="data">(.*?)</script>', page, re.S)[1]
    assert _data(page)["classes"][0] == HOSTILE


def test_not_a_number_is_embedded_too(small):
    t = Trace(**vars(small))
    t.loss = float("nan")
    assert _data(page_html(t))["loss"] == "NaN"


def test_without_targets_there_is_only_the_way_forward():
    model = Sequential([Conv2D(2, 3, input_shape=(6, 6, 1)), Flatten(), Dense(3)])
    data = _data(page_html(trace(model, np.zeros((2, 6, 6, 1)), training=False)))
    assert "losses" not in data and data["check"] == []


@pytest.mark.parametrize("image", [6, -1, "2", 1.0])
def test_image_must_be_in_the_batch(small, tmp_path, image):
    with pytest.raises(InputError, match="no such image"):
        small.to_html(tmp_path / "page.html", image=image)


def test_the_page_is_about_the_image_of_the_largest_loss_unless_another_is_chosen(small, tmp_path):
    small.to_html(tmp_path / "worst.html")
    small.to_html(tmp_path / "third.html", image=2)
    found = [_data((tmp_path / f"{name}.html").read_text("utf-8"))["image"] for name in ("worst", "third")]
    assert found == [int(np.argmax(small.losses)), 2]


# ---- in a browser -------------------------------------------------------------------------------------------------

_LAUNCH = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)


class Browser:
    """Chromium through its DevTools protocol on a pair of pipes."""

    def __init__(self, folder):
        import fcntl

        (to_read, self.write), (self.read, to_write) = os.pipe(), os.pipe()
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (to_read, to_write)]
        names = (
            "headless",
            "no-sandbox",
            "disable-gpu",
            "no-first-run",
            "disable-background-networking",
            "disable-component-update",
            "disable-sync",
            "remote-debugging-pipe",
            "disable-dev-shm-usage",
        )
        flags = [f"--{name}" for name in names]
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                _LAUNCH,
                *map(str, ends),
                CHROMIUM,
                *flags,
                f"--user-data-dir={folder}",
                "about:blank",
            ],
            pass_fds=ends,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (to_read, to_write, *ends):
            os.close(end)
        self.count, self.rest, self.events, self.session = 0, b"", [], None
        pages = [t for t in self.send("Target.getTargets")["targetInfos"] if t["type"] == "page"]
        self.session = self.send("Target.attachToTarget", targetId=pages[0]["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method, **params):
        self.count += 1
        message = {"id": self.count, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self.rest:
                assert select.select([self.read], [], [], 60)[0], f"no answer to {method}"
                self.rest += os.read(self.read, 1 << 20)
            line, self.rest = self.rest.split(b"\0", 1)
            answer = json.loads(line)
            if answer.get("id") == self.count:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def run(self, script):
        result = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def open(self, path, address=""):
        self.events.clear()
        self.send("Page.navigate", url="about:blank")
        self.send("Page.navigate", url=f"file://{path}{address}")
        for _ in range(300):
            if self.run("document.readyState === 'complete' && !!document.querySelector('[data-fid=selftestbutton]')"):
                return
            time.sleep(0.05)
        raise AssertionError(f"{path} does not start: {self.errors()}")

    def press(self, key):
        for kind in ("keyDown", "keyUp"):
            text = {"text": key} if kind == "keyDown" and len(key) == 1 else {}
            code = {"ArrowRight": 39, "ArrowDown": 40}.get(key, ord(key[0].upper()))
            self.send("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **text)

    def errors(self):
        self.run("0")
        found = [e["params"] for e in self.events if e["method"] in ("Runtime.exceptionThrown", "Log.entryAdded")]
        return found + [e["params"] for e in self.events if e["method"] == "Runtime.consoleAPICalled"]

    def close(self):
        self.process.terminate()
        self.process.wait()
        os.close(self.write)
        os.close(self.read)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if CHROMIUM is None or os.name != "posix":
        pytest.skip("no Chromium that can be driven through pipes: the page's script is not tested")
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


VIEWS = """(() => {
  const found = [], all = (what) => [...document.querySelectorAll(what)];
  const press = (id) => all('[data-fid]').find((q) => q.dataset.fid === id).click();
  for (const card of all('#net .card[data-fid]').map((q) => q.dataset.fid)) for (const d of 'fbu') {
    press(card); if (document.querySelector('[data-fid=dir' + d + ']').disabled) continue;
    press('dir' + d);
    const views = all('#panel .bar1 [data-fid^=view]').map((q) => q.dataset.fid);
    for (const v of views.length ? views : [null]) {
      if (v) press(v);
      const text = document.getElementById('panel').innerText;
      found.push([card, d, v, text.length, /undefined|\\[object/.test(text), all('.badge.bad').length,
        document.documentElement.scrollWidth - document.documentElement.clientWidth]);
    }
  }
  return found;
})()"""


@pytest.mark.parametrize("name", ZOO)
def test_selftest_passes_and_every_panel_renders(browser, tmp_path, name):
    t = ZOO[name]()
    write_page(t, tmp_path / "page.html", image=len(t.x) - 1)
    browser.open(tmp_path / "page.html", "#selftest")
    table = browser.run("document.getElementById('selftest').innerText")
    match = re.fullmatch(r"selftest: ok (\d+) checks", browser.run("document.title"))
    assert match and int(match[1]) > 100 and "null" not in table, table
    for panel in browser.run(VIEWS):
        *_, length, garbled, wrong, too_wide = panel
        assert length > 60 and not garbled and not wrong and too_wide <= 0, panel
    assert browser.errors() == []


def test_selftest_of_a_trimmed_page(browser, tmp_path, large):
    write_page(large, tmp_path / "page.html")
    browser.open(tmp_path / "page.html", "#selftest")
    lines = "[...document.querySelectorAll('#selftest tbody tr')]"
    rows = browser.run(lines + ".map((r) => [...r.children].map((c) => c.innerText))")
    assert browser.run("document.title").startswith("selftest: ok "), rows
    unchecked = [row for row in rows if row[2] == "0"]
    assert not unchecked, unchecked
    said = browser.run("document.getElementById('foot').innerText")
    assert "trimmed (level" in said and "gradient, optimizer arrays" in said


def test_selftest_finds_a_wrong_number(browser, tmp_path):
    t = _small()
    t.layers[5].dx = t.layers[5].dx.copy()
    t.layers[5].dx[0, 1:3] *= 1.001
    write_page(t, tmp_path / "page.html")
    browser.open(tmp_path / "page.html", "#selftest")
    assert browser.run("document.title").startswith("selftest: FAILED")


def test_forward_only_page(browser, tmp_path):
    model = Sequential([Conv2D(2, 3, input_shape=(6, 6, 1)), MaxPooling2D(3), Flatten(), Dense(3)])
    model.build((None, 6, 6, 1))
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 1))
    write_page(trace(model, x, training=False), tmp_path / "page.html")
    browser.open(tmp_path / "page.html", "#selftest")
    assert browser.run("document.title").startswith("selftest: ok")
    assert len(browser.run(VIEWS)) >= 5 and browser.errors() == []
    browser.run("document.querySelector('[data-fid=layer1]').click()")
    assert "dropped" in browser.run("document.getElementById('panel').innerText")


def test_keys_address_and_screen_reader(browser, tmp_path, small):
    write_page(small, tmp_path / "page.html")
    browser.open(tmp_path / "page.html")
    stops = browser.run("document.querySelectorAll('.dots i').length")
    for k in range(1, stops + 1):
        browser.press("n")
        assert browser.run("document.querySelector('#walk h2').innerText").startswith(f"{k}. ")
    browser.press("p")
    assert browser.run("location.hash").endswith(f"w={stops - 1}")
    browser.run("location.hash = 'l=0&d=f&v=one&e=4,4,1'")
    browser.run("new Promise((r) => setTimeout(r, 50))")
    browser.run("[...document.querySelectorAll('canvas[data-fid=y]')][0].focus()")
    browser.press("ArrowRight")
    browser.press("ArrowDown")
    assert "e=5,5,1" in browser.run("location.hash")
    assert browser.run("document.activeElement.dataset.fid") == "y"
    spoken = browser.run("document.getElementById('live').innerText")
    assert "Recomputed equals recorded" in spoken and f"{small.layers[0].y[0, 5, 5, 1]:.3f}"[-3:-1] in spoken
    browser.press("b")
    assert "d=b" in browser.run("location.hash")
    unlabelled = "document.querySelectorAll('canvas:not([aria-label]):not([aria-hidden=true])').length"
    assert browser.run(unlabelled) == 0
    assert browser.errors() == []


# ---- the walk: what its sentences say, and what is on the first screen -----------------------------------------------

NUMBER = r"−?\d[\d,]*(?:\.\d+)?(?:·10⁻?[⁰¹²³⁴⁵⁶⁷⁸⁹]+)?"
PLACE = r"[a-z]+\[[\d, ]+\]"
WALK = """(() => {
  const text = (what) => document.querySelector(what).innerText, panel = document.getElementById('panel');
  const inputs = [...panel.querySelectorAll('input')].map((q) => q.value), box = (q) => q.getBoundingClientRect();
  const hidden = [...panel.querySelectorAll('summary, figcaption, caption')].map((q) => q.textContent);
  const walk = box(document.getElementById('walk')), next = box(document.querySelector('[data-fid=next]'));
  const sum = document.querySelector('.worked'), first = document.querySelector('.worked li');
  const on_top = document.elementFromPoint(next.left + next.width / 2, next.top + next.height / 2);
  return {
    title: text('#walk h2'), says: text('#walk p'), layer: text('#panel h2'),
    panel: [panel.innerText, ...inputs, ...hidden].join(' '),
    below: walk.top > innerHeight / 2 ? walk.top : innerHeight,
    next: on_top !== null && on_top.closest('[data-fid=next]') !== null,
    sum: sum && [box(sum).top, box(first).bottom, box(sum).bottom],
  };
})()"""
MODELS = [
    "small", "evaluation", "dense", "geometry", "penalties", "logits", "one image", "nested", "own layer", "unfused",
    "sum", "huber", "options", "residual", "merges",
]  # fmt: skip


def _walk(browser):
    """What the page says and shows at each stop."""
    for _ in range(browser.run("document.querySelectorAll('.dots i').length")):
        browser.press("n")
        yield browser.run(WALK)
        assert browser.errors() == []


def _value(text):
    mantissa, _, exponent = text.replace("−", "-").replace(",", "").partition("·10")
    return float(mantissa) * 10.0 ** int(exponent.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")) or 0)


def _numbers(text):
    """Those that stand by themselves, not in a name or an index."""
    plain = re.sub(r"[A-Za-z_]\w*", " ", re.sub(PLACE, " ", text))
    return {number.rstrip(",") for number in re.findall(NUMBER, plain)}


def _recorded(t, image, name, index, key):
    """The number of this name in the trace."""
    if key == "input":
        return t.x[(image, *index)]
    layer = t[key]
    if name in ("mean", "variance"):
        return layer.kept[{"variance": "var"}.get(name, name)][index]
    if name[0] == "d" and name[1:] in layer.grads:
        return layer.grads[name[1:]][index]
    if name in layer.params:
        return layer.params[name][index]
    return vars(layer).get(name, layer.kept.get(name))[(image, *index)]


def _claims(t, image, says):
    """(said, recorded) for each number that a sentence gives as that of a place in a layer."""
    for place, key, number in re.findall(rf"({PLACE}) of (\S+?),? (?:is|from|again,) ({NUMBER})", says):
        name, _, index = place.partition("[")
        yield _value(number), _recorded(t, image, name, tuple(map(int, index[:-1].split(","))), key)
    for number, place, key in re.findall(rf"give ({NUMBER}) for ({PLACE}) of ([^;]+);", says):
        name, _, index = place.partition("[")
        yield _value(number), _recorded(t, image, name, tuple(map(int, index[:-1].split(","))), key)


@pytest.mark.parametrize("name", MODELS)
def test_every_sentence_of_the_walk_says_what_the_panel_shows(browser, tmp_path, name):
    t, claims, stops = ZOO[name](), 0, 0
    write_page(t, tmp_path / "page.html")
    image = _data((tmp_path / "page.html").read_text())["image"]
    browser.open(tmp_path / "page.html")
    for stop in _walk(browser):
        says, panel, stops = stop["says"], stop["panel"], stops + 1
        assert not re.search(r"undefined|NaN|\?", says), stop
        assert [place for place in re.findall(PLACE, says) if place not in panel] == [], stop
        assert _numbers(says) - _numbers(panel) == set(), stop
        assert set(re.findall(r" of ([a-z]\w*_\d+(?:/\w+)?)", says)) <= {stop["layer"]}, stop
        # No plural of one.
        assert re.findall(r"(?<![\d.,·])\b1 (?!class\b|loss\b|times\b|is\b|gives\b)[a-z]+s\b", says + panel) == [], stop
        for said, recorded in _claims(t, image, says):
            digits = 1e-3 if abs(recorded) >= 1e-3 else 1e-2  # small numbers are written with three digits
            assert abs(said - recorded) <= digits * abs(recorded) + 1e-7, (stop, recorded)
            claims += 1
    assert stops >= 10 and claims >= stops / 3


@pytest.mark.parametrize("size", [(1280, 900), (390, 844)])
@pytest.mark.parametrize("name", ["small", "dense", "residual"])
def test_the_sum_and_next_are_on_the_first_screen(browser, tmp_path, name, size):
    write_page(ZOO[name](), tmp_path / "page.html")
    width, height = size
    screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.send("Emulation.setDeviceMetricsOverride", **screen)
    try:
        browser.open(tmp_path / "page.html")
        for stop in _walk(browser):
            top, first, bottom = stop["sum"]
            assert stop["next"] and top >= 0 and (bottom if width > 500 else first) <= stop["below"], stop
    finally:
        browser.send("Emulation.clearDeviceMetricsOverride")


def test_the_walk_follows_one_weight_whose_numbers_can_be_told(small):
    data = _data(page_html(small))
    check = data["check"][0]
    layer, at = small.layers[check["layer"]], tuple(check["index"])
    assert check["param"] == "w" and data["image"] == int(np.argmax(small.losses))
    before, after = layer.params["w"][at], layer.updated["w"][at]
    assert f"{before:.4g}" != f"{after:.4g}" and abs(layer.grads["w"][at]) > 1e-3
    for number in (before, after, layer.grads["w"][at]):
        assert len(f"{abs(number):.4g}".replace(".", "").strip("0")) == 4


def test_a_sentence_about_another_number_is_found(browser, tmp_path, small):
    """The check of the sentences itself, on a sentence with a number that the panel does not show."""
    write_page(small, tmp_path / "page.html")
    browser.open(tmp_path / "page.html")
    browser.press("n")
    browser.press("n")
    stop = browser.run(WALK)
    place = re.search(PLACE, stop["says"])[0]
    assert place in stop["panel"] and place.replace("[", "[9") not in stop["panel"]
    wrong = re.sub(rf"is {NUMBER}", "is 0.123", stop["says"], count=1)
    assert "0.123" in _numbers(wrong) - _numbers(stop["panel"])
    image = _data(page_html(small))["image"]
    assert any(abs(said - recorded) > 1e-3 for said, recorded in _claims(small, image, wrong))


def test_the_walk_goes_along_the_branches_and_the_strip_draws_them(browser, tmp_path):
    write_page(ZOO["residual"](), tmp_path / "page.html")
    browser.open(tmp_path / "page.html")
    arcs = "[...document.querySelectorAll('.skip-edge')].map((q) => q.getBoundingClientRect().width > 100)"
    assert browser.run(arcs) == [True] * 3  # conv2d_1 to add_1, re_lu_1 to conv2d_3, max_pooling2d_1 to concatenate_1
    said = [stop["says"] for stop in _walk(browser)]
    for part in ("read by conv2d_2 and add_1", "from conv2d_1, ", "it comes from ", "from add_1.", "receives the same"):
        assert any(part in sentence for sentence in said), part


def test_a_gradient_that_is_lost_where_two_meet_is_found(browser, tmp_path):
    t = ZOO["residual"]()
    t["conv2d_1"].dy = t["conv2d_2"].dx.copy()  # = in place of +=
    write_page(t, tmp_path / "page.html")
    browser.open(tmp_path / "page.html", "#selftest")
    assert browser.run("document.title").startswith("selftest: FAILED")


def test_phone_has_no_horizontal_scroll(browser, tmp_path, small):
    write_page(small, tmp_path / "page.html")
    browser.send("Emulation.setDeviceMetricsOverride", width=390, height=800, deviceScaleFactor=2, mobile=True)
    try:
        browser.open(tmp_path / "page.html")
        assert [row for row in browser.run(VIEWS) if row[-1] > 0] == []
    finally:
        browser.send("Emulation.clearDeviceMetricsOverride")


def test_hostile_names_stay_inert(browser, tmp_path):
    write_page(_hostile(), tmp_path / "page.html")
    browser.open(tmp_path / "page.html", "#selftest")
    browser.run(VIEWS)
    assert browser.run("document.images.length") == 0
    assert browser.run("document.title").startswith("selftest: ok")
    assert browser.errors() == []


def test_nothing_is_requested(browser, tmp_path, small):
    write_page(small, tmp_path / "page.html")
    browser.send("Network.enable")
    browser.open(tmp_path / "page.html", "#selftest")
    requests = {e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"}
    browser.send("Network.disable")
    assert {url.partition("#")[0] for url in requests} <= {"about:blank", f"file://{tmp_path}/page.html"}
