"""D. MNIST with early stopping."""

import keras
from keras.callbacks import EarlyStopping
from keras.datasets import mnist
from keras.layers import Dense, Input
from keras.models import Sequential
from keras.utils import to_categorical

epochs = 25

keras.utils.set_random_seed(42)
(X_train, y_train), (X_test, y_test) = mnist.load_data()
X_train = X_train.reshape(len(X_train), 784).astype("float32") / 255
X_test = X_test.reshape(len(X_test), 784).astype("float32") / 255
Y_train, Y_test = to_categorical(y_train, 10), to_categorical(y_test, 10)

model = Sequential()
model.add(Input(shape=(784,)))
model.add(Dense(800, activation="relu", kernel_initializer="glorot_uniform"))
model.add(Dense(10, activation="softmax"))
model.compile(loss="categorical_crossentropy", optimizer="adam", metrics=["accuracy"])

early_stopping = EarlyStopping(monitor="val_accuracy", patience=2, restore_best_weights=True)
history = model.fit(
    X_train, Y_train, batch_size=200, epochs=epochs, validation_split=0.2, verbose=2, callbacks=[early_stopping]
)  # fmt: skip
print("stopped_epoch:", early_stopping.stopped_epoch)
score = model.evaluate(X_test, Y_test, verbose=0)
print(f"Test accuracy: {score[1]:.2%}")
