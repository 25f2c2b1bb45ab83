"""The catalogue of recipes: data, model, training, conversion and checks of each named workload."""

from __future__ import annotations

from edge_dl.recipe import ChecksConfig, DataConfig, ModelConfig, Recipe, Task, TrainingConfig

_DIGITS = DataConfig("digits-rows")
_DIGITS_TRAINING = TrainingConfig(epochs=40, schedule="cosine", learning_rate=3e-3)

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "rnn",
            "Sequence classification with a SimpleRNN",
            Task.CLASSIFICATION,
            _DIGITS,
            ModelConfig("rnn", (64, 64), dropout=0.1),
            TrainingConfig(epochs=40, schedule="cosine", learning_rate=1e-3),
        ),
        Recipe(
            "lstm",
            "Sequence classification with an LSTM",
            Task.CLASSIFICATION,
            _DIGITS,
            ModelConfig("lstm", (64, 64), dropout=0.1),
            _DIGITS_TRAINING,
        ),
        Recipe(
            "gru",
            "Sequence classification with a GRU",
            Task.CLASSIFICATION,
            _DIGITS,
            ModelConfig("gru", (64, 64), dropout=0.1),
            _DIGITS_TRAINING,
        ),
        Recipe(
            "forecast",
            "Several steps of a series ahead with a GRU, against the naive and the seasonal forecast",
            Task.FORECAST,
            DataConfig("seasonal", window=96, horizon=24, season=24),
            ModelConfig("gru", (48,), difference=True),
            TrainingConfig(epochs=15, schedule="cosine", learning_rate=2e-3, patience=5),
            checks=ChecksConfig(max_drop=0.02),
        ),
        Recipe(
            "language-model",
            "The next character (or word) with an LSTM",
            Task.LANGUAGE_MODEL,
            DataConfig("python-topics", window=64, stride=64, level="character"),
            ModelConfig("lstm", (128,), embedding=32, dropout=0.1),
            TrainingConfig(epochs=15, batch_size=32, schedule="cosine", learning_rate=4e-3),
        ),
        Recipe(
            "adding",
            "The adding problem: remember two numbers of a long sequence (Hochreiter & Schmidhuber 1997)",
            Task.REGRESSION,
            DataConfig("adding", length=100, samples=10_000),
            # Inputs are between 0 and 1 as they come; a scaled marker, rare as it is, would be a large number.
            ModelConfig("gru", (64,), scaling="none"),
            TrainingConfig(epochs=20, schedule="cosine", learning_rate=3e-3),
        ),
    )
}
