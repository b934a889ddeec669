"""C. What is on the picture? The image, the model, and whether it takes flattened images are told by the reader."""

import json
import sys

import numpy as np
from keras.models import load_model
from keras.utils import img_to_array, load_img

path, width, height, flatten = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])

image = img_to_array(load_img(path, target_size=(height, width))).astype("float") / 255.0
image = image.flatten() if flatten else image
image = image.reshape((1, *image.shape))

model = load_model("animals.keras")
with open("names.json") as file:
    names = json.load(file)
preds = model.predict(image)
i = preds.argmax(axis=1)[0]
text = f"{names[i]}: {preds[0][i] * 100:.2f}%"
total = np.sum(preds)
print(text)
