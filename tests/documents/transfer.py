"""E. VGG16 without its top, frozen, under a small network of one's own."""

import keras
from keras.applications.vgg16 import VGG16
from keras.datasets import cifar10
from keras.layers import Dense, Dropout, Flatten
from keras.models import Sequential
from keras.optimizers import SGD
from keras.utils import to_categorical

epochs = 1

keras.utils.set_random_seed(0)
(x_train, y_train), (x_test, y_test) = cifar10.load_data()
x_train, x_test = x_train[:64].astype("float32") / 255, x_test[:32].astype("float32") / 255
y_train, y_test = to_categorical(y_train[:64], 10), to_categorical(y_test[:32], 10)

# The article: weights="imagenet". Nothing may be downloaded here.
conv_base = VGG16(include_top=False, weights=None, input_shape=(32, 32, 3))
for layer in conv_base.layers:
    layer.trainable = False
before = [w.copy() for w in conv_base.get_weights()]

model = Sequential()
model.add(conv_base)
model.add(Flatten())
model.add(Dense(256, activation="sigmoid"))
model.add(Dropout(0.5))
model.add(Dense(10, activation="softmax"))
model.compile(
    loss="categorical_crossentropy", optimizer=SGD(learning_rate=1e-4, momentum=0.9), metrics=["accuracy"]
)  # fmt: skip
model.summary()
history = model.fit(x_train, y_train, batch_size=32, epochs=epochs, validation_data=(x_test, y_test), verbose=2)
after = conv_base.get_weights()
parameters = conv_base.count_params()
