"""The part of the demo that turns a BERT checkpoint into a Magic Pyramid and compares the two."""

from __future__ import annotations

import copy
import random
import statistics
import tempfile
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, set_seed

from hf_integration.demo_checkpoint import checkpoint_path
from hf_integration.demo_data import Documents, load_reuters
from hf_integration.demo_report import classification_section
from hf_integration.exit_selection import choose_exit_threshold, record_exits
from hf_integration.flops import baseline_flops
from hf_integration.measuring import Answers, Batch, answer, interleaved_seconds, make_batches
from hf_integration.recipe import StageReport, run_stages
from hf_integration.registration import attach, detach
from hf_integration.training import STAGES
from mp_plugins import DemoContext, Section

__all__ = ["ClassificationPart"]

# Sizes that keep the whole demo to a few minutes on two cores.
_TRAIN_DOCUMENTS = 1200
_HELD_OUT_DOCUMENTS = 500
_TIMED_DOCUMENTS = 320
_TIMED_ALONE = 64
# Of every so many batches the curve is made.
_CURVE_STEP = 5
_TRAIN_TOKENS = 64
_TEST_TOKENS = 128
_BATCH = 32
_ROUNDS = 3
# Tolerated on the held-out documents, so that the promise of one point holds on the test documents.
_MAX_DROP = 0.003


@dataclass(frozen=True)
class _Data:
    """Tokenised documents: rows for training, rows and batches to choose settings on, and batches to test on."""

    train: list[dict[str, Any]]
    held_out_rows: list[dict[str, Any]]
    held_out: list[Batch]
    test: list[Batch]
    timed: list[Batch]
    alone: list[Batch]
    label_names: list[str]

    @property
    def curve(self) -> list[Batch]:
        """Batches of the test documents, spread over their lengths."""
        return self.test[::_CURVE_STEP]


class ClassificationPart:
    """Fine-tunes, prunes and trains exits on Reuters R8, then compares accuracy, GFLOPs and time with plain BERT."""

    requires: frozenset[str] = frozenset()
    provides: frozenset[str] = frozenset()

    def run(self, context: DemoContext) -> Section:
        """Train and compare; the trained model is saved beside the report, in the folder ``model``."""
        torch.set_num_threads(context.num_threads)
        set_seed(context.seed)
        tokenizer = AutoTokenizer.from_pretrained(checkpoint_path())
        data = _load(context, tokenizer)
        with tempfile.TemporaryDirectory(prefix="magic-pyramid-") as folder:
            bert, pyramid, stages = _train(context, tokenizer, data, folder)
        # Against BERT, not against the pruned model without exits, which may be worse already.
        reference = answer(bert, data.held_out, "BERT, held-out documents").accuracy
        chosen = choose_exit_threshold(pyramid, data.held_out, max_drop=_MAX_DROP, reference_accuracy=reference)
        pyramid.set_speed(exit_threshold=chosen.threshold)
        pyramid.save_pretrained(context.output_dir / "model")
        tokenizer.save_pretrained(context.output_dir / "model")
        return classification_section(_measure(bert, pyramid, data), stages)


def _load(context: DemoContext, tokenizer: Any) -> _Data:
    train, test = load_reuters(context.cache_dir)
    order = random.Random(context.seed).sample(range(len(train.texts)), _TRAIN_DOCUMENTS + _HELD_OUT_DOCUMENTS)
    collate = DataCollatorWithPadding(tokenizer)
    held_out = _tokenised(tokenizer, train, order[_TRAIN_DOCUMENTS:], _TEST_TOKENS)
    tested = _tokenised(tokenizer, test, range(len(test.texts)), _TEST_TOKENS)
    sample = random.Random(context.seed).sample(tested, _TIMED_DOCUMENTS)
    return _Data(
        train=_tokenised(tokenizer, train, order[:_TRAIN_DOCUMENTS], _TRAIN_TOKENS),
        held_out_rows=held_out,
        held_out=make_batches(held_out, collate, _BATCH),
        test=make_batches(tested, collate, _BATCH),
        timed=make_batches(sample, collate, _BATCH),
        alone=make_batches(sample[:_TIMED_ALONE], collate, 1),
        label_names=train.label_names,
    )


def _tokenised(tokenizer: Any, documents: Documents, rows: Any, max_length: int) -> list[dict[str, Any]]:
    ids = tokenizer([documents.texts[row] for row in rows], truncation=True, max_length=max_length)["input_ids"]
    return [{"input_ids": tokens, "labels": documents.labels[row]} for row, tokens in zip(rows, ids, strict=True)]


def _train(context: DemoContext, tokenizer: Any, data: _Data, folder: str) -> tuple[Any, Any, list[StageReport]]:
    """Return plain BERT as fine-tuned, the Magic Pyramid that goes on from it, and what each stage took."""
    names = dict(enumerate(data.label_names))
    bert = AutoModelForSequenceClassification.from_pretrained(
        checkpoint_path(), id2label=names, label2id={name: index for index, name in names.items()}
    )
    # Half of the parameters are word vectors that this few documents hardly change.
    bert.bert.embeddings.requires_grad_(False)
    pyramid = attach(bert)
    options: dict[str, Any] = {
        "output_dir": folder,
        "training_arguments": {stage: {"use_cpu": True} for stage in STAGES},
        "data_collator": DataCollatorWithPadding(tokenizer),
        "seed": context.seed,
    }
    reports = run_stages(pyramid, data.train, stages=("finetune",), **options)
    bert = detach(copy.deepcopy(pyramid)).eval()
    options["trainer_options"] = {"calibration_dataset": data.held_out_rows}
    reports += run_stages(pyramid, data.train, stages=("soft", "hard", "exits"), **options)
    return bert, pyramid.eval(), reports


def _measure(bert: Any, pyramid: Any, data: _Data) -> dict[str, Any]:
    plain, fast = answer(bert, data.test, "BERT, all test documents"), answer(pyramid, data.test, "Magic Pyramid")
    config, lengths = pyramid.config, _lengths(data.test)
    models = {"bert": bert, "magic_pyramid": pyramid}
    unpadded = baseline_flops(lengths, config)
    layers = config.num_hidden_layers
    shares = torch.bincount(_known(fast.exit_layer), minlength=layers + 1) / len(fast.predicted)
    kept = _known(fast.tokens_kept).double().sum(0) / lengths.sum()
    return {
        "test_documents": len(plain.predicted),
        "max_tokens": _TEST_TOKENS,
        "accuracy": {"bert": plain.accuracy, "magic_pyramid": fast.accuracy},
        "gflops_per_document": {
            "bert_padded_to_maximum": _gflops(
                baseline_flops(lengths, config, padding="max_length", max_length=_TEST_TOKENS)
            ),
            "bert_padded_to_longest": statistics.fmean(
                float(flops)
                for batch in data.test
                for flops in baseline_flops(_lengths([batch]), config, padding="longest") / 1e9
            ),
            "bert_unpadded": _gflops(unpadded),
            "magic_pyramid": _gflops(_known(fast.flops)),
        },
        "seconds": {
            "rounds": _ROUNDS,
            "documents_in_batches": _TIMED_DOCUMENTS,
            "batches": interleaved_seconds(models, data.timed, rounds=_ROUNDS, description="time, batches of 32"),
            "documents_alone": _TIMED_ALONE,
            "alone": interleaved_seconds(models, data.alone, rounds=_ROUNDS, description="time, one at a time"),
        },
        "exit_threshold": config.exit_threshold,
        "keep_thresholds": pyramid.token_pruner.effective_thresholds().tolist(),
        "exit_shares": shares.tolist(),
        "kept_shares": kept.tolist(),
        "neutral_difference": _neutral_difference(bert, data.curve),
        "curve": _curve(plain, pyramid, data.curve),
    }


def _curve(plain: Answers, pyramid: Any, batches: list[Batch]) -> dict[str, Any]:
    """Accuracy and work at several exit thresholds, on the same documents, of which BERT's answers are known."""
    recorded, chosen = record_exits(pyramid, batches, argument="documents"), pyramid.config.exit_threshold
    points = [
        {
            "exit_threshold": round(threshold, 3),
            "accuracy": recorded.accuracy(threshold),
            "gflops": _gflops(recorded.flops(threshold, pyramid)),
        }
        for threshold in sorted({0.0, chosen, chosen / 4, min(1.0, 2 * chosen), min(1.0, 3 * chosen)})
    ]
    # As `plain` answers the batches in their order, so do these.
    right = torch.split(plain.predicted == plain.labels, _BATCH)[::_CURVE_STEP]
    unpadded = _gflops(baseline_flops(_lengths(batches), pyramid.config))
    return {"points": points, "bert": {"accuracy": float(torch.cat(right).double().mean()), "gflops": unpadded}}


def _neutral_difference(bert: Any, batches: list[Batch]) -> float:
    """Return the largest difference of a logit between BERT and a neutral Magic Pyramid made from it."""
    neutral = attach(copy.deepcopy(bert))
    with torch.inference_mode():
        differences: list[float] = [
            (neutral(**inputs).logits - bert(**inputs).logits).abs().max().item()
            for batch in batches[:: max(1, len(batches) // 4)]
            for inputs in [{name: value for name, value in batch.items() if name != "labels"}]
        ]
    return max(differences)


def _lengths(batches: list[Batch]) -> torch.Tensor:
    return torch.cat([batch["attention_mask"].sum(1) for batch in batches])


def _gflops(flops: torch.Tensor) -> float:
    return float(flops.double().mean()) / 1e9


def _known(value: torch.Tensor | None) -> torch.Tensor:
    if value is None:
        raise TypeError("plain BERT reports neither exits nor tokens nor work")
    return value
