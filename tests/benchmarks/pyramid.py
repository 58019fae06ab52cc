"""Trains Magic Pyramids on real tasks, measures them beside BERT in one run and says which targets are met.

    python tests/benchmarks/pyramid.py --keep models --json figures.json --svg curves.svg
        Reuters R8 and 20 Newsgroups; the first run trains (25 minutes and more for each on 2 cores), later ones don't
    python tests/benchmarks/pyramid.py --keep models --train-on cuda --train-only
        the same models in minutes where there is a CUDA device; take the folder to the machine to measure
    python tests/benchmarks/pyramid.py --quick
        one document of twelve, one short round: shows that all works, measures nothing
    python tests/benchmarks/pyramid.py --data r8 --keep models --parts --shapes
        also recipes, exit criteria and token pruners, and whether time follows arithmetic on BERT-base shapes

All contenders share one fine-tuned backbone. Settings are picked on a part of the training split that no model has
seen, accuracy is that of all test documents, and times are medians of interleaved rounds, from token ids to logits.
The JSON file is written again after each part. For one more peer: pip install onnx onnxruntime onnxscript
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

DATA = ("r8", "20ng", "tweets", "pairs")
PACKAGES = ("magic-pyramid", "torch", "transformers", "tokenizers", "onnxruntime", "numpy")


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "--data", nargs="*", choices=DATA, default=["r8", "20ng"], metavar="TASK", help=f"of {', '.join(DATA)}; or none"
    )
    add("--keep", type=Path, metavar="FOLDER", help="keep trained models here, and take those of earlier runs")
    add("--max-tokens", type=int, default=256, metavar="N", help="cut documents to N tokens (default: 256)")
    add(
        "--max-loss", type=float, default=0.3, metavar="POINTS",
        help="points of accuracy that settings may lose on the held-out documents (default: 0.3)",
    )  # fmt: skip
    add("--rounds", type=int, default=5, help="rounds whose median counts (default: 5)")
    add("--batch-documents", type=int, default=512, metavar="N", help="documents timed in batches (default: 512)")
    add("--one-documents", type=int, default=128, metavar="N", help="documents timed one by one (default: 128)")
    add(
        "--curve-documents", type=int, metavar="N",
        help="test documents that the curves of accuracy against work are of (default: all)",
    )  # fmt: skip
    add("--threads", type=int, help="threads of torch (default: its own choice)")
    add("--ideas-only", action="store_true", help="leave out other precisions, padding and ONNX Runtime")
    add("--train-only", action="store_true", help="fill the folder of --keep, and measure nothing")
    add("--train-on", choices=("cpu", "cuda"), default="cpu", metavar="DEVICE", help="cpu or cuda (default: cpu)")
    add("--float32-training", action="store_true", help="train without bfloat16, for processors that lack it")
    add(
        "--parts",
        action="store_true",
        help="also both recipes, all exit criteria and all token pruners, on the first task",
    )
    add(
        "--shapes",
        action="store_true",
        help="also BERT-base with random weights: does time follow arithmetic, and when does dropping rows pay?",
    )
    add("--quick", action="store_true", help="a small sample and short training: a look, not a measurement")
    add("--json", type=Path, metavar="OUT", help="write every figure here")
    add("--svg", type=Path, metavar="OUT", help="write accuracy against work here")
    given = parser.parse_args()
    counts = (given.rounds, given.batch_documents, given.one_documents, given.threads or 1, given.curve_documents or 1)
    if min(counts) < 1 or given.max_tokens < 8 or not 0 <= given.max_loss <= 100:
        parser.error(
            "--rounds, --threads and the numbers of documents must be at least 1, --max-tokens at least 8, "
            "--max-loss from 0 to 100"
        )
    if given.train_only and not given.keep:
        parser.error("--train-only needs a folder for the models: name one with --keep")
    if given.parts and not given.data:
        parser.error("--parts needs a task: name one with --data")
    if given.quick:
        given.rounds, given.batch_documents, given.one_documents = 1, 64, 16
    return given


def run_tasks(given: argparse.Namespace, write: Any, content: dict[str, Any]) -> None:
    """Measure the tasks; each is printed and written when it is finished."""
    import torch
    from mp_models import tables
    from mp_models.keeping import ModelShelf
    from mp_models.results import measured_targets
    from mp_models.session import Settings, run_task, train_models
    from mp_models.targets import AVERAGE, outcomes
    from mp_models.tasks import load_task
    from mp_models.training import recipe_of
    from mp_models.variants import compare_parts
    from transformers import AutoTokenizer

    from hf_integration.demo_checkpoint import checkpoint_path

    tokenizer = AutoTokenizer.from_pretrained(checkpoint_path())
    shelf = ModelShelf(given.keep, tokenizer)
    settings = Settings(
        rounds=given.rounds, batch_documents=given.batch_documents, one_documents=given.one_documents,
        curve_documents=given.curve_documents,
        max_loss=given.max_loss / 100, bfloat16=not given.float32_training, threads=torch.get_num_threads(),
        cuda=given.train_on == "cuda", others=not given.ideas_only,
    )  # fmt: skip
    results: dict[str, Any] = {}
    for name in given.data:
        task = load_task(name, tokenizer, _cache_dir(), max_tokens=given.max_tokens, quick=given.quick)
        recipe = recipe_of(name, quick=given.quick)
        models = train_models(task, recipe, shelf, tokenizer, settings)
        if given.train_only:
            print(*(f"{title}: {kept.name}" for title, kept in models.items()), sep="\n", flush=True)
            continue
        result = results[name] = run_task(task, models, settings)
        content["tasks"][name] = result.data()
        write()
        shown = (tables.training_table, tables.contenders_table, tables.equal_accuracy_table)
        print(f"\n## {result.title}", *(make(result) for make in shown), sep="\n\n", flush=True)
        if given.svg:
            tables.plot(results, given.svg)
        if given.parts and name == given.data[0]:
            content["parts"] = compare_parts(task, recipe, shelf, tokenizer, settings)
            write()
            for head, rows in content["parts"].items():
                print(f"\n{tables.variants_table(rows, head)}")
    if given.train_only:
        return
    found = outcomes(measured_targets(results))
    content["targets"] = [
        {
            "data": one.target.task,
            "what": one.target.what,
            "limit": one.target.limit,
            "value": one.value,
            "met": one.met,
        }
        for one in found
    ]
    titles = {name: result.title for name, result in results.items()} | {AVERAGE: "average of R8 and 20 Newsgroups"}
    print(f"\n## To reach\n\n{tables.targets_table(found, titles)}", flush=True)


def run_shapes(given: argparse.Namespace, content: dict[str, Any]) -> None:
    """Compare time with arithmetic on BERT-base shapes, and rows and weights in other orders; on CUDA devices too."""
    import torch
    from mp_models import shapes
    from mp_models.compaction import compaction_rows, compaction_table
    from mp_models.tasks import load_task
    from mp_models.weights import prepacking_rows, prepacking_table
    from transformers import AutoTokenizer

    from hf_integration.demo_checkpoint import checkpoint_path
    from hf_integration.measuring import spread

    task = load_task(
        "r8",
        AutoTokenizer.from_pretrained(checkpoint_path()),
        _cache_dir(),
        max_tokens=given.max_tokens,
        quick=given.quick,
    )
    bert = shapes.base_model()
    content["compaction"] = compaction_rows(bert, (64, 512, 4096), repeats=5 if given.quick else 15)
    print(f"\n{compaction_table(content['compaction'])}", flush=True)
    content["prepacking"] = prepacking_rows(bert, (8, 16, 32, 64, 128, 256), rounds=given.rounds)
    print(f"\n{prepacking_table(content['prepacking'])}", flush=True)
    rows = spread(task.test, 16 if given.quick else 64)
    content["shapes"] = []
    for prepacked, title in ((False, "BERT-base, random weights"), (True, "the same, prepacked")):
        made = shapes.shape_rows(rows, (1, 32), rounds=given.rounds, prepacked=prepacked)
        content["shapes"] += made
        print(f"\n{shapes.shapes_table(made, title)}", flush=True)
    if torch.cuda.is_available():
        content["compaction on cuda"] = compaction_rows(
            bert.to("cuda", torch.bfloat16), (64, 512, 4096, 32768), repeats=50
        )
        print(f"\n{compaction_table(content['compaction on cuda'])}", flush=True)
        content["cuda"] = shapes.cuda_rows(given.max_tokens, (1, 8, 32, 128, 512), rounds=max(given.rounds, 20))
        title = f"{torch.cuda.get_device_name()}, bfloat16, BERT-base"
        print(f"\n{shapes.shapes_table(content['cuda'], title)}", flush=True)


def main() -> None:
    """Train or load, measure, print, write."""
    given = arguments()
    import torch
    from mp_bench import machine, report

    if given.threads:
        torch.set_num_threads(given.threads)
    conditions = machine.describe(PACKAGES) | {
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "load_before": machine.load_average(),
        "arguments": vars(given),
    }
    content: dict[str, Any] = {"conditions": conditions, "tasks": {}}

    def write() -> None:
        conditions["load_after"] = machine.load_average()
        if given.json:
            report.write_json(given.json, content)

    if given.data:
        run_tasks(given, write, content)
    if given.shapes:
        run_shapes(given, content)
    write()
    print(f"\n{json.dumps(conditions, default=str)}")


def _cache_dir() -> Path:
    from mp_bench.sentences import cache_dir

    return cache_dir()


if __name__ == "__main__":
    main()
