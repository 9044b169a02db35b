#!/usr/bin/env python3
"""Export models with operations of `tensorflow-text`, of each kind that reads attributes or protobuf maps.

usage: PYTHONPATH=PACKAGES export_text_models.py TARGET
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf
import tensorflow_text as text

TEXT = tf.TensorSpec([None], tf.string, name="text")
WORDS = text.WhitespaceTokenizer()
VOCABULARY = ["the", "quick", "fox", "[UNK]"]


def ngrams(x: Any) -> Any:
    return text.ngrams(WORDS.tokenize(x), 2, reduction_type=text.Reduction.STRING_JOIN).to_tensor(
        ""
    )


def masks(x: Any) -> Any:
    return tf.cast(
        text.RoundRobinTrimmer(2).generate_mask([WORDS.tokenize(x)])[0].to_tensor(), tf.int32
    )


def round_robin(x: Any) -> Any:
    return text.RoundRobinTrimmer(2).trim([WORDS.tokenize(x), WORDS.tokenize(x)])[0].to_tensor("")


def waterfall(x: Any) -> Any:
    return text.WaterfallTrimmer(2).trim([WORDS.tokenize(x)])[0].to_tensor("")


def wordpiece(x: Any) -> Any:
    return (
        text.FastWordpieceTokenizer(VOCABULARY, token_out_type=tf.string).tokenize(x).to_tensor("")
    )


def unicode(x: Any) -> Any:
    folded = text.normalize_utf8(text.case_fold_utf8(x), "NFKC")
    return text.UnicodeScriptTokenizer().tokenize(folded).to_tensor("")


def fastbert(x: Any) -> Any:
    tokenizer = text.FastBertTokenizer(VOCABULARY, lower_case_nfd_strip_accents=True)
    return tokenizer.tokenize(x).to_tensor()


def export(function: Callable[[Any], Any], target: Path) -> None:
    module = tf.Module()
    module.run = tf.function(lambda text: {"y": function(text)}, input_signature=[TEXT])
    tf.saved_model.save(module, str(target / function.__name__ / "1"), signatures=module.run)


if __name__ == "__main__":
    for model in (ngrams, masks, round_robin, waterfall, wordpiece, unicode, fastbert):
        export(model, Path(sys.argv[1]))
