"""From a compiled network and batches to a run folder with weights, curves and pictures.

Comes in: a Keras model, batches of slices, the settings of a stage.
Goes out: a run folder that survives any stop, and weights that are checked before they are used.
Imports `system` only: it knows neither the U-Net, nor the loss, nor the data.
"""
