"""A convolutional network by hand: 110 lines of NumPy, without a class and without a framework.

    image 28×28×1 → convolution, ReLU, pooling → convolution, ReLU, pooling → dense → softmax
                    28×28×8        14×14×8       14×14×16       7×7×16        10 probabilities

All that learning takes is here: the forward pass, the backward pass and Adam. It learns to tell ten kinds of clothes
apart in well under a minute. Then minicnn computes the same gradients, and must agree. dv is the gradient of the loss
with respect to v, an array of the same shape. Run it with: python examples/by_hand.py
"""

import numpy as np

from minicnn import Sequential, layers
from minicnn.datasets import toy

TAPS = [(i, j) for i in range(3) for j in range(3)]  # the nine places of a 3×3 window, row by row


def im2col(x):
    """The 3×3 window around each pixel as one row: (N, H, W, C) -> (N·H·W, 9·C). Beyond the border lie zeros."""
    _, h, w, c = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return np.concatenate([padded[:, i : i + h, j : j + w] for i, j in TAPS], axis=3).reshape(-1, 9 * c)


def col2im(cols, shape):
    """The reverse for gradients: a pixel that was copied into nine rows receives the sum of nine numbers."""
    n, h, w, c = shape
    padded = np.zeros((n, h + 2, w + 2, c), cols.dtype)
    for k, (i, j) in enumerate(TAPS):
        padded[:, i : i + h, j : j + w] += cols.reshape(n, h, w, 9, c)[:, :, :, k]
    return padded[:, 1:-1, 1:-1]


def block(x, w, b):
    """Convolution, ReLU, 2×2 max pooling: y (N, H/2, W/2, F) from x (N, H, W, C) and w (9·C, F)."""
    n, h, width, _ = x.shape
    cols = im2col(x)
    z = cols @ w + b  # with the windows in rows, a convolution is a matrix product
    a = np.maximum(z, 0).reshape(n, h // 2, 2, width // 2, 2, -1)
    four = a.swapaxes(2, 3).reshape(n, h // 2, width // 2, 4, -1)  # the four numbers of each 2×2 window
    return four.max(axis=3), cols, four.argmax(axis=3)


def block_backward(dy, y, x, cols, winner, w):
    """The same in reverse: dx, dw, db."""
    n, h, width, f = dy.shape
    dy = dy * (y > 0)  # ReLU: where the output is 0, a small change of z changes nothing
    dfour = np.where(winner[:, :, :, None] == np.arange(4)[:, None], dy[:, :, :, None], 0)  # the winner takes all
    dz = dfour.reshape(n, h, width, 2, 2, f).swapaxes(2, 3).reshape(-1, f)
    return col2im(dz @ w.T, x.shape), cols.T @ dz, dz.sum(axis=0)  # as of any matrix product z = cols @ w + b


def forward(p, x):
    """The probabilities (N, 10), and what the backward pass needs."""
    w1, b1, w2, b2, w3, b3 = p
    y1, *saved1 = block(x, w1, b1)
    y2, *saved2 = block(y1, w2, b2)
    logits = y2.reshape(len(x), -1) @ w3 + b3
    e = np.exp(logits - logits.max(axis=1, keepdims=True))  # the largest becomes 0, so that exp never overflows
    return e / e.sum(axis=1, keepdims=True), y1, saved1, y2, saved2


def loss_and_gradients(p, x, labels):
    """The mean cross-entropy of a batch, and its gradients with respect to the six arrays of p."""
    w1, _, w2, _, w3, _ = p
    probabilities, y1, saved1, y2, saved2 = forward(p, x)
    loss = -np.log(probabilities[np.arange(len(x)), labels]).mean()
    dlogits = (probabilities - np.eye(10, dtype=w3.dtype)[labels]) / len(x)  # prediction minus truth; N for the mean
    dw3, db3 = y2.reshape(len(x), -1).T @ dlogits, dlogits.sum(axis=0)
    dy2 = (dlogits @ w3.T).reshape(y2.shape)
    dy1, dw2, db2 = block_backward(dy2, y2, y1, *saved2, w2)
    _, dw1, db1 = block_backward(dy1, y1, x, *saved1, w1)
    return loss, [dw1, db1, dw2, db2, dw3, db3]


def adam(p, gradients, means, squares, t, rate=0.002):
    """Step t = 1, 2, …: along the mean gradient, divided by its usual size (Kingma and Ba, 2015)."""
    for w, dw, m, v in zip(p, gradients, means, squares, strict=True):
        m += 0.1 * (dw - m)  # both means start at 0, and are too small at first: the divisions below mend that
        v += 0.001 * (dw**2 - v)
        w -= rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-7)


if __name__ == "__main__":
    (x, labels), (x_test, labels_test) = toy.load_data()
    x, x_test = x[..., None] / np.float32(255), x_test[..., None] / np.float32(255)
    rng, p = np.random.default_rng(0), []
    for rows, columns in ((9, 8), (9 * 8, 16), (7 * 7 * 16, 10)):
        w = rng.normal(0, np.sqrt(2 / rows), (rows, columns))  # He et al., 2015
        p += [w.astype("float32"), np.zeros(columns, "float32")]
    means, squares = [np.zeros_like(w) for w in p], [np.zeros_like(w) for w in p]
    for t, batch in enumerate((b for _ in range(3) for b in rng.permutation(6000).reshape(150, 40)), start=1):
        loss, gradients = loss_and_gradients(p, x[batch], labels[batch])
        adam(p, gradients, means, squares, t)
        if t % 150 == 0:
            accuracy = (forward(p, x_test)[0].argmax(axis=1) == labels_test).mean()
            print(f"epoch {t // 150}: loss of its last batch {loss:.3f}, test accuracy {accuracy:.1%}")

    same = {"kernel_size": 3, "padding": "same", "activation": "relu"}
    blocks = [layers.Conv2D(8, **same), layers.MaxPooling2D(2), layers.Conv2D(16, **same), layers.MaxPooling2D(2)]
    model = Sequential([layers.Input((28, 28, 1)), *blocks, layers.Flatten(), layers.Dense(10, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy")
    model.set_weights([w.reshape(shaped.shape) for w, shaped in zip(p, model.get_weights(), strict=True)])
    loss, gradients = loss_and_gradients(p, x[:64], labels[:64])
    trace = model.trace(x[:64], labels[:64])  # one step of minicnn, recorded
    theirs = [dw for layer in trace.layers for dw in layer.grads.values()]
    difference = max(np.abs(a.ravel() - b.ravel()).max() for a, b in zip(gradients, theirs, strict=True))
    print(f"loss {loss:.6f}, minicnn's {trace.loss:.6f}; largest difference of a gradient: {difference:.1e}")
    assert difference < 1e-5 and abs(loss - trace.loss) < 1e-5
