"""C. Your own images, one folder for each class: the simple network and SmallVGGNet, the report, and what is kept."""

import json
import os
import random
import sys

import keras
import numpy as np
from keras.layers import Activation, BatchNormalization, Conv2D, Dense, Dropout, Flatten, Input, MaxPooling2D
from keras.models import Sequential
from keras.optimizers import SGD
from keras.preprocessing.image import img_to_array, load_img
from keras.utils import to_categorical
from sklearn.metrics import classification_report
from sklearn.model_selection import train_test_split
from tensorflow.keras.preprocessing.image import ImageDataGenerator

folder, kind, epochs = sys.argv[1], sys.argv[2], int(sys.argv[3])
size = 32 if kind == "simple" else 64
keras.utils.set_random_seed(42)

names = sorted(os.listdir(folder))
paths = sorted(os.path.join(folder, name, file) for name in names for file in os.listdir(os.path.join(folder, name)))
random.shuffle(paths)
data = np.array([img_to_array(load_img(path, target_size=(size, size))) for path in paths]) / 255.0
labels = np.array([names.index(path.split(os.path.sep)[-2]) for path in paths])
x_train, x_test, y_train, y_test = train_test_split(data, labels, test_size=0.25, random_state=42)
y_train, y_test = to_categorical(y_train, len(names)), to_categorical(y_test, len(names))

if kind == "simple":
    x_train, x_test = x_train.reshape(len(x_train), -1), x_test.reshape(len(x_test), -1)
    model = Sequential()
    model.add(Input(shape=(3072,)))
    model.add(Dense(1024, activation="sigmoid"))
    model.add(Dense(512, activation="sigmoid"))
    model.add(Dense(len(names), activation="softmax"))
    rate = 0.01
else:
    model = Sequential([Input(shape=(size, size, 3))])
    for filters, count in ((32, 1), (64, 2), (128, 3)):
        for _ in range(count):
            model.add(Conv2D(filters, (3, 3), padding="same"))
            model.add(Activation("relu"))
            model.add(BatchNormalization(axis=-1))
        model.add(MaxPooling2D(pool_size=(2, 2)))
        model.add(Dropout(0.25))
    model.add(Flatten())
    model.add(Dense(512))
    model.add(Activation("relu"))
    model.add(BatchNormalization())
    model.add(Dropout(0.5))
    model.add(Dense(len(names)))
    model.add(Activation("softmax"))
    rate = keras.optimizers.schedules.InverseTimeDecay(0.01, decay_steps=1, decay_rate=0.01 / epochs)

model.compile(loss="categorical_crossentropy", optimizer=SGD(learning_rate=rate), metrics=["accuracy"])
if kind == "simple":
    H = model.fit(x_train, y_train, validation_data=(x_test, y_test), epochs=epochs, batch_size=32, verbose=2)
else:
    aug = ImageDataGenerator(
        rotation_range=30, width_shift_range=0.1, height_shift_range=0.1, shear_range=0.2, zoom_range=0.2,
        horizontal_flip=True, fill_mode="nearest",
    )  # fmt: skip
    H = model.fit(
        aug.flow(x_train, y_train, batch_size=32), validation_data=(x_test, y_test),
        steps_per_epoch=len(x_train) // 32, epochs=epochs, verbose=2,
    )  # fmt: skip

predictions = model.predict(x_test, batch_size=32, verbose=0)
print(classification_report(y_test.argmax(axis=1), predictions.argmax(axis=1), target_names=names, zero_division=0))
accuracy = np.mean(y_test.argmax(axis=1) == predictions.argmax(axis=1))
curves = {name: H.history[name] for name in ("loss", "val_loss", "accuracy", "val_accuracy")}

model.save("animals.keras")
with open("names.json", "w") as file:
    json.dump(names, file)
