"""Whole models on a CUDA device: the same results as on the CPU, in both executions, and every stage of training."""

from __future__ import annotations

import pytest
import torch
from transformers import TrainingArguments

import hf_integration
from hf_integration import varlen
from hf_integration.attention import packed_attention
from hf_integration.kernels import has_triton
from hf_integration.packing import Packing, segment_max, segment_mean, segment_pool

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

LENGTHS = [9, 1, 17, 4, 17]
PRUNERS = {
    "attention": {"keep_threshold": [0.9, 0.8, 0.7]},
    "cls-attention": {"keep_threshold": [0.9, 0.8, 0.7]},
    "top-k": {"keep_rate": [0.8, 0.6, 0.4]},
    "gate": {},
}


def run(model, batch, device, dtype=None):
    model = model.to(device, dtype)
    with torch.no_grad():
        return model(**{name: tensor.to(device) for name, tensor in batch.items()})


def compare(found, expected, tolerance):
    assert {value.device.type for value in found.values()} == {"cuda"}
    assert found.exit_layer.tolist() == expected.exit_layer.tolist()
    assert found.tokens_kept.tolist() == expected.tokens_kept.tolist()
    assert found.flops.tolist() == expected.flops.tolist()
    torch.testing.assert_close(found.logits.float().cpu(), expected.logits.float(), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("execution", ["compact", "masked"])
@pytest.mark.parametrize("pruner", sorted(PRUNERS))
def test_the_device_gives_what_the_cpu_gives(make_pyramid, make_batch, pruner, execution):
    batch = make_batch(LENGTHS)
    model = make_pyramid(token_pruner=pruner, exit_threshold=0.6, **PRUNERS[pruner])
    expected = run(model, batch, "cpu")
    assert len(set(expected.exit_layer.tolist())) > 1
    model.config.execution = execution
    compare(run(model, batch, "cuda"), expected, 1e-3)


def test_every_family_gives_on_the_device_what_it_gives_on_the_cpu(family, make_plain, make_inputs):
    model = hf_integration.attach(make_plain(family))
    model.config.keep_threshold = 0.8
    batch = make_inputs(family, LENGTHS)
    expected = run(model, batch, "cpu")
    compare(run(model, batch, "cuda"), expected, 1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_neutral_model_gives_the_logits_of_bert_in_half_precision(make_bert, make_batch, dtype):
    bert, batch = make_bert(), make_batch(LENGTHS)
    pyramid = hf_integration.attach(bert)
    expected = run(bert, batch, "cuda", dtype)
    found = run(pyramid, batch, "cuda", dtype)
    torch.testing.assert_close(found.logits, expected.logits, atol=0.1, rtol=0.1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_sample_does_not_depend_on_its_batch_in_half_precision(make_pyramid, make_batch, dtype):
    model = make_pyramid(exit_threshold=0.3, keep_threshold=0.8)
    batch = make_batch(LENGTHS)
    together = run(model, batch, "cuda", dtype)
    for row, length in enumerate(LENGTHS):
        alone = run(model, {name: tensor[row : row + 1, :length] for name, tensor in batch.items()}, "cuda", dtype)
        torch.testing.assert_close(alone.logits, together.logits[row : row + 1], atol=0.1, rtol=0.1)


@pytest.mark.parametrize("batch_size", [1, 512])
def test_large_and_small_batches_run_in_bfloat16(make_pyramid, make_batch, batch_size):
    lengths = [1 + 16 * row % 40 for row in range(batch_size)]
    output = run(make_pyramid(exit_threshold=0.3, keep_threshold=0.8), make_batch(lengths), "cuda", torch.bfloat16)
    assert output.logits.shape == (batch_size, 3)
    assert bool(output.logits.isfinite().all())


def test_segments_are_reduced_as_on_the_cpu():
    states = torch.randn(18, 7, generator=torch.Generator().manual_seed(0))
    packing = Packing((5, 1, 12), torch.arange(3))
    moved = Packing(packing.lengths, packing.sample_ids.cuda())
    for reduce in (segment_mean, segment_max):
        torch.testing.assert_close(reduce(states.cuda(), moved).cpu(), reduce(states, packing))


needs_triton = pytest.mark.skipif(
    not (torch.cuda.is_available() and has_triton(torch.device("cuda"))), reason="Triton does not work here"
)


@needs_triton
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("head_dim", [8, 24, 64, 128, 256])
@pytest.mark.parametrize("importance", ["received", "first"])
def test_the_importance_kernel_gives_what_sample_by_sample_attention_gives(importance, head_dim, dtype):
    torch.manual_seed(0)
    heads, lengths = 3, [5, 1, 200, 64, 65]
    # Parts of one matrix, as fused projections give them.
    query, key, value = torch.randn(sum(lengths), 9 * head_dim, device="cuda", dtype=dtype).chunk(3, dim=-1)
    assert varlen.suits_varlen(query, heads, importance)
    context, found = packed_attention(query, key, value, lengths, num_heads=heads, importance=importance)
    given = (part.float().cpu() for part in (query, key, value))
    expected, oracle = packed_attention(*given, lengths, num_heads=heads, importance=importance)
    torch.testing.assert_close(context.float().cpu(), expected, atol=2e-2, rtol=2e-2)
    torch.testing.assert_close(found.cpu(), oracle, atol=5e-3, rtol=5e-3)
    _, again = packed_attention(
        query[6:206], key[6:206], value[6:206], lengths[2:3], num_heads=heads, importance=importance
    )
    assert torch.equal(found[6:206], again)


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_pooling_kernel_gives_what_the_cpu_gives(dtype):
    lengths = (5, 1, 100, 32)
    states = torch.randn(sum(lengths), 70, generator=torch.Generator().manual_seed(0)).to(dtype)
    packing = Packing(lengths, torch.arange(4))
    moved = Packing(lengths, packing.sample_ids.cuda())
    found = segment_pool(states.cuda(), moved)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float().cpu(), segment_pool(states.float(), packing), atol=1e-2, rtol=1e-2)
    leaves = states.cuda().requires_grad_()
    assert segment_pool(leaves, moved).requires_grad


def test_gradients_of_attention_in_one_kernel_are_those_of_the_samples():
    torch.manual_seed(0)
    leaves = [torch.randn(18, 24, device="cuda", dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
    others = [leaf.detach().float().requires_grad_() for leaf in leaves]
    for given in (leaves, others):
        context, _ = packed_attention(*given, [5, 1, 12], num_heads=3, importance="received")
        context.float().square().sum().backward()
    for leaf, other in zip(leaves, others, strict=True):
        torch.testing.assert_close(leaf.grad.float(), other.grad, atol=5e-2, rtol=5e-2)


@pytest.mark.parametrize("execution", ["compact", "masked"])
def test_all_stages_train_on_the_device(make_pyramid, tmp_path, execution):
    generator = torch.Generator().manual_seed(0)
    rows = [
        {"input_ids": torch.randint(10, 99, (4 + row % 9,), generator=generator).tolist(), "labels": row % 2}
        for row in range(24)
    ]

    def collate(batch):
        ids = [torch.tensor(row["input_ids"]) for row in batch]
        padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
        mask = (padded != 0).long()
        return {"input_ids": padded, "attention_mask": mask, "labels": torch.tensor([row["labels"] for row in batch])}

    model = make_pyramid(trained=False, execution=execution)
    for stage in ("finetune", "soft", "hard", "exits", "joint"):
        before = {name: parameter.detach().cpu().clone() for name, parameter in model.named_parameters()}
        arguments = TrainingArguments(
            str(tmp_path / stage), report_to="none", save_strategy="no", disable_tqdm=True, num_train_epochs=2,
            learning_rate=1e-3, per_device_train_batch_size=8,
        )  # fmt: skip
        hf_integration.MagicPyramidTrainer(
            model=model, args=arguments, stage=stage, train_dataset=rows, data_collator=collate
        ).train()
        assert model.device.type == "cuda"
        moved = [name for name, parameter in model.named_parameters() if not before[name].equal(parameter.cpu())]
        assert moved, stage
        assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())
