"""A. The course's first network for images, with what it prints and predicts."""

import keras
import numpy as np
from keras.datasets import fashion_mnist
from keras.layers import Dense, Flatten

epochs, batch_size = 5, 32
names = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]

keras.utils.set_random_seed(0)
(train_images, train_labels), (test_images, test_labels) = fashion_mnist.load_data()
train_images = train_images[..., np.newaxis].astype("float32") / 255
test_images = test_images[..., np.newaxis].astype("float32") / 255

model = keras.Sequential([
    Flatten(input_shape=(28, 28, 1)),
    Dense(128, activation="relu"),
    Dense(10, activation="softmax"),
])  # fmt: skip
model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
history = model.fit(train_images, train_labels, epochs=epochs, batch_size=batch_size, verbose=2)

test_loss, accuracy = model.evaluate(test_images, test_labels, verbose=0)
predictions = model.predict(test_images[:32], verbose=0)
print(predictions.shape, np.argmax(predictions[0]), test_labels[0])

image = test_images[0]
single = model.predict(np.array([image]), verbose=0)
print(f"{names[np.argmax(single[0])]} {100 * np.max(single):2.0f}% ({names[test_labels[0]]})")
