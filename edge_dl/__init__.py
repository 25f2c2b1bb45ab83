"""edge-dl: Keras models on phones and Raspberry Pis, with proof that they still are the models that were trained."""

__version__ = "0.1.0"
