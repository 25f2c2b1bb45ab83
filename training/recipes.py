"""The catalogue of recipes: data, model, training, conversion and checks of each named workload."""

from __future__ import annotations

from dataclasses import replace

from edge_dl.recipe import (
    ChecksConfig,
    DataConfig,
    ImageConfig,
    Recipe,
    RecurrentConfig,
    Seq2SeqConfig,
    SpeechConfig,
    Task,
    TrainingConfig,
    TransferConfig,
)

_WORDS = DataConfig("vowel-words")
# Chosen on a validation part beside 792 training clips (Speech Commands, 66 a class): DS-CNN was right for 51 % of it
# without random changes, 63 % with shifts, 76 % with speed, level and noise too, 78 % with more of each in 100 epochs.
_WORDS_TRAINING = TrainingConfig(
    epochs=60,
    batch_size=32,
    optimizer="adamw",
    learning_rate=5e-3,
    schedule="cosine",
    weight_decay=1e-4,
    label_smoothing=0.1,
    shift=0.15,
    speed=0.2,
    gain=0.3,
    background=0.5,
)
_PAIRS = DataConfig("toy-translation", level="subword")
_PAIRS_CHECKS = ChecksConfig(max_drop=0.005)  # Half a point of BLEU.
_PAIRS_TRAINING = TrainingConfig(
    epochs=20, schedule="cosine", warmup=1, learning_rate=2e-3, label_smoothing=0.1, batch_size=64
)
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
            RecurrentConfig("rnn", (64, 64), dropout=0.1),
            TrainingConfig(epochs=40, schedule="cosine", learning_rate=1e-3),
        ),
        Recipe(
            "lstm",
            "Sequence classification with an LSTM",
            Task.CLASSIFICATION,
            _DIGITS,
            RecurrentConfig("lstm", (64, 64), dropout=0.1),
            _DIGITS_TRAINING,
        ),
        Recipe(
            "gru",
            "Sequence classification with a GRU",
            Task.CLASSIFICATION,
            _DIGITS,
            RecurrentConfig("gru", (64, 64), dropout=0.1),
            _DIGITS_TRAINING,
        ),
        Recipe(
            "forecast",
            "Several steps of a series ahead with a GRU, against the naive and the seasonal forecast",
            Task.FORECAST,
            DataConfig("seasonal", window=96, horizon=24, season=24),
            RecurrentConfig("gru", (48,), difference=True),
            TrainingConfig(epochs=15, schedule="cosine", learning_rate=2e-3, patience=5),
            checks=ChecksConfig(max_drop=0.02),
        ),
        Recipe(
            "language-model",
            "The next character (or word) with an LSTM",
            Task.LANGUAGE_MODEL,
            DataConfig("python-topics", window=64, stride=64, level="character"),
            RecurrentConfig("lstm", (128,), embedding=32, dropout=0.1),
            TrainingConfig(epochs=15, batch_size=32, schedule="cosine", learning_rate=4e-3),
        ),
        Recipe(
            "adding",
            "The adding problem: remember two numbers of a long sequence (Hochreiter & Schmidhuber 1997)",
            Task.REGRESSION,
            DataConfig("adding", length=100, samples=10_000),
            # Inputs are between 0 and 1 as they come; a scaled marker, rare as it is, would be a large number.
            RecurrentConfig("gru", (64,), scaling="none"),
            TrainingConfig(epochs=20, schedule="cosine", learning_rate=3e-3),
        ),
        Recipe(
            "cnn",
            "Image classification with convolution, ReLU and pooling, twice, and a fully connected layer",
            Task.CLASSIFICATION,
            DataConfig("digits", input="image"),
            ImageConfig("cnn", (32, 64), dense=128, dropout=0.4),
            TrainingConfig(epochs=30, schedule="cosine", learning_rate=2e-3, shift=0.1),
        ),
        Recipe(
            "resnet8",
            "Image classification with MLPerf Tiny's ResNet-8",
            Task.CLASSIFICATION,
            DataConfig("digits", input="image"),
            ImageConfig("resnet8", l2=1e-4),
            TrainingConfig(epochs=30, batch_size=32, schedule="cosine", learning_rate=2e-3, shift=0.1),
        ),
        Recipe(
            "mobilenet",
            "Transfer learning: a MobileNet with a new head for your own pictures, --data photos/",
            Task.CLASSIFICATION,
            # Of a flower at the edge, a cut shows nothing: on 1,200 photos a linear probe of the stretched ones is
            # right for 87 %, of the cut ones for 84 %.
            DataConfig("", input="image", fit="stretch"),
            TransferConfig("mobilenet", alpha=0.5, size=224, crop=False),
            TrainingConfig(
                epochs=6,
                batch_size=32,
                schedule="cosine",
                learning_rate=5e-3,
                label_smoothing=0.1,
                zoom=0.3,
                brightness=0.15,
                contrast=0.2,
                flip=True,
                balance=True,
                fine_tune_epochs=12,
                fine_tune_layers=30,
                fine_tune_rate=1e-4,
            ),
        ),
        Recipe(
            "photo-encoder",
            "Vectors that say how alike two photos are, --data photos/; see `edge-dl search`",
            Task.EMBEDDING,
            DataConfig("", input="image"),
            TransferConfig("mobilenet_v2", alpha=0.35, size=224),
        ),
        Recipe(
            "speech-cnn",
            "Keyword spotting with MLPerf Tiny's separable CNN on MFCC that are made inside the graph",
            Task.CLASSIFICATION,
            _WORDS,
            SpeechConfig("ds-cnn", coefficients=10, highest=4_000.0, dropout=0.1),
            _WORDS_TRAINING,
        ),
        Recipe(
            "speech-rnn",
            "Keyword spotting with convolution and a GRU",
            Task.CLASSIFICATION,
            _WORDS,
            SpeechConfig("crnn", dropout=0.2, mask_time=0.1, mask_bands=0.1),
            replace(_WORDS_TRAINING, learning_rate=3e-3),
        ),
        Recipe(
            "speech-lstm",
            "Keyword spotting with an LSTM",
            Task.CLASSIFICATION,
            _WORDS,
            SpeechConfig("lstm", dropout=0.2),
            replace(_WORDS_TRAINING, learning_rate=3e-3),
        ),
        Recipe(
            "speech-transformer",
            "Keyword spotting with a keyword transformer: self-attention over time",
            Task.CLASSIFICATION,
            _WORDS,
            SpeechConfig("transformer", dropout=0.1, mask_time=0.1, mask_bands=0.1),
            replace(_WORDS_TRAINING, learning_rate=1e-3),
        ),
        Recipe(
            "speech-ctc",
            "Strings of words with convolution, a GRU and CTC: joined from single words, --data digits.zip",
            Task.TRANSCRIPTION,
            DataConfig("vowel-words", samples=1_000),
            SpeechConfig("ctc", dropout=0.1, mask_bands=0.15),
            TrainingConfig(
                epochs=30,
                batch_size=32,
                schedule="cosine",
                warmup=2,
                learning_rate=3e-3,
                weight_decay=1e-4,
                optimizer="adamw",
                speed=0.1,
                gain=0.3,
                background=0.2,
            ),
        ),
        Recipe(
            "seq2seq",
            "Translation with a fixed vector between encoder and decoder (Sutskever et al. 2014), --data pairs.tsv",
            Task.TRANSLATION,
            _PAIRS,
            Seq2SeqConfig(attention="none", input_feeding=False),
            _PAIRS_TRAINING,
            checks=_PAIRS_CHECKS,
        ),
        Recipe(
            "translate",
            "Translation with attention and input feeding (Luong et al. 2015), --data pairs.tsv",
            Task.TRANSLATION,
            _PAIRS,
            Seq2SeqConfig(),
            _PAIRS_TRAINING,
            checks=_PAIRS_CHECKS,
        ),
    )
}
