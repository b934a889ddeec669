"""The course's very first model, before A: one neuron learns to convert degrees."""

import keras
import numpy as np

epochs = 500

celsius = np.array([-40, -10, 0, 8, 15, 22, 38], dtype=float)
fahrenheit = np.array([-40, 14, 32, 46, 59, 72, 100], dtype=float)

keras.utils.set_random_seed(0)
layer = keras.layers.Dense(units=1, input_shape=[1])
model = keras.Sequential([layer])
model.compile(loss="mean_squared_error", optimizer=keras.optimizers.Adam(0.1))
history = model.fit(celsius, fahrenheit, epochs=epochs, verbose=False)
losses = history.history["loss"]

answer = model.predict(np.array([100.0]))[0, 0]
weight, bias = layer.get_weights()
print(f"100 degrees Celsius are {answer:.1f} Fahrenheit; w = {weight}, b = {bias}")
