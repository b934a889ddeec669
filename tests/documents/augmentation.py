"""E. Augmentation, standardisation and whitening of CIFAR-10, and training on what comes out."""

import os

import keras
import numpy as np
from keras.datasets import cifar10
from keras.layers import BatchNormalization, Conv2D, Dense, Flatten, Input, MaxPooling2D
from keras.models import Sequential
from keras.utils import to_categorical
from tensorflow.keras.preprocessing.image import ImageDataGenerator

epochs = 3

keras.utils.set_random_seed(7)
(x_train, y_train), (x_test, y_test) = cifar10.load_data()
x_train, x_test = x_train.astype("float32") / 255, x_test.astype("float32") / 255
y_train, y_test = to_categorical(y_train, 10), to_categorical(y_test, 10)

one_each = {
    "rotated": ImageDataGenerator(rotation_range=30),
    "shifted": ImageDataGenerator(width_shift_range=0.2, height_shift_range=0.2),
    "sheared": ImageDataGenerator(shear_range=20),
    "zoomed": ImageDataGenerator(zoom_range=0.3),
    "coloured": ImageDataGenerator(channel_shift_range=0.3),
    "flipped": ImageDataGenerator(horizontal_flip=True, vertical_flip=True),
}
os.makedirs("augmented")
pictures = {}
for name, generator in one_each.items():
    flow = generator.flow(
        x_train[:9], y_train[:9], batch_size=9, shuffle=False,
        save_to_dir="augmented", save_prefix=name, save_format="png",
    )  # fmt: skip
    pictures[name] = next(flow)[0]

standardised = ImageDataGenerator(samplewise_center=True, samplewise_std_normalization=True)
batch, _ = next(standardised.flow(x_train, y_train, batch_size=32, seed=1))
mean, std = batch[0].mean(), batch[0].std()

whitening = ImageDataGenerator(featurewise_center=True, zca_whitening=True)
small = x_train[:200, ::2, ::2]  # whole images take a matrix of 3072 x 3072
whitening.fit(small)
white, _ = next(whitening.flow(small, y_train[:200], batch_size=100, shuffle=False))

model = Sequential([
    Input(shape=(32, 32, 3)),
    Conv2D(16, (3, 3), padding="same", activation="relu"),
    BatchNormalization(momentum=0.8),
    MaxPooling2D(4),
    Flatten(),
    Dense(10, activation="softmax"),
])  # fmt: skip
model.compile(loss="categorical_crossentropy", optimizer="adam", metrics=["accuracy"])
varied = ImageDataGenerator(rotation_range=10, width_shift_range=0.1, height_shift_range=0.1, horizontal_flip=True)
history = model.fit(
    varied.flow(x_train, y_train, batch_size=32), epochs=epochs, validation_data=(x_test, y_test), verbose=2
)  # fmt: skip
finite = bool(np.isfinite(white).all())
