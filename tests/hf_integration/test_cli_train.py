from __future__ import annotations

import json
import math
import random
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertModel,
    RobertaConfig,
    RobertaForSequenceClassification,
    Trainer,
)

import hf_integration
from hf_integration import checkpoint_files, staged_training
from mp_plugins import ArgumentError, cli

WORDS = [f"word{index}" for index in range(20)]
EPOCHS = {"finetune": 8, "soft": 1, "hard": 1, "exits": 8}
SHORT = ["--epochs", *(f"{stage}={epochs}" for stage, epochs in EPOCHS.items()), "--num-threads", "1"]
TEXTS = 60


@pytest.fixture(scope="module")
def backbone(save_tokenizer, tmp_path_factory):
    """A random BERT without a head, with a tokenizer, as a folder."""
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=5 + len(WORDS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=37,
        max_position_embeddings=40,
    )
    BertModel(config).save_pretrained(folder)
    save_tokenizer(folder, WORDS)
    return folder


def write_texts(path, count, seed=0):
    """The class is which of two words occurs."""
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        kind = rng.choice(["sport", "trade"])
        words = [*rng.choices(WORDS[2:], k=rng.randint(2, 8)), WORDS[0] if kind == "sport" else WORDS[1]]
        rng.shuffle(words)
        rows.append(f"{' '.join(words)},{kind}")
    path.write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return write_texts(tmp_path_factory.mktemp("texts") / "train.csv", TEXTS)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, backbone, texts):
    out = tmp_path_factory.mktemp("trained") / "model"
    assert cli.main(["train", str(backbone), str(texts), str(out), *SHORT]) == 0
    return out


def run(capsys, *arguments):
    capsys.readouterr()
    code = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def fails(capsys, *arguments):
    """Return the exit code and the message, which must be the last line and the only one of its kind."""
    code, out, err = run(capsys, *arguments)
    assert out == ""
    lines = [line for line in err.splitlines() if line.startswith("magic-pyramid: error:")]
    assert lines == err.splitlines()[-1:]
    return code, lines[0]


def test_all_stages_leave_a_model_that_loads_and_knows_its_labels(trained):
    hf_integration.register()
    model = AutoModelForSequenceClassification.from_pretrained(trained)
    tokenizer = AutoTokenizer.from_pretrained(trained)
    assert isinstance(model, hf_integration.MagicPyramidForSequenceClassification)
    assert model.config.label2id == {"sport": 0, "trade": 1}
    assert all(model.internal_classifiers.is_trained(depth) for depth in (0, 1))
    assert tokenizer.model_max_length == 40
    batch = tokenizer([f"{WORDS[0]} {WORDS[5]}", f"{WORDS[1]} {WORDS[5]}"], return_tensors="pt")
    assert model(**batch).logits.shape == (2, 2)
    assert sorted(path.name for path in trained.iterdir() if path.is_dir() or path.name.startswith(".")) == []
    state = json.loads((trained / staged_training.STATE_FILE).read_text())
    assert state["complete"]
    assert [report["stage"] for report in state["finished"]] == ["finetune", "soft", "hard", "exits"]


def test_a_finished_run_is_not_repeated(capsys, backbone, texts, trained):
    before = (trained / "model.safetensors").stat().st_mtime_ns
    code, out, _ = run(capsys, "train", backbone, texts, trained, *SHORT, "--json")
    assert code == 0
    assert [report["stage"] for report in json.loads(out)["stages"]] == ["finetune", "soft", "hard", "exits"]
    assert (trained / "model.safetensors").stat().st_mtime_ns == before


def assert_same_weights(folder, expected):
    """Compare what two runs left: names of parameters in the files, and the models that load from them."""
    files = [load_file(path / "model.safetensors") for path in (folder, expected)]
    assert files[0].keys() == files[1].keys()
    hf_integration.register()
    models = [AutoModelForSequenceClassification.from_pretrained(path) for path in (folder, expected)]
    for found, weights in (files, [model.state_dict() for model in models]):
        for key, tensor in weights.items():
            torch.testing.assert_close(found[key], tensor, msg=lambda text, key=key: f"{key}: {text}")


class Killed(BaseException):
    """What no handler of errors catches, as a signal would be."""


def kill_at(monkeypatch, module, name, call):
    """Raise in place of the given call (counted from 1) of a function."""
    original, calls = getattr(module, name), []

    def replaced(*arguments, **options):
        calls.append(1)
        if len(calls) == call:
            raise Killed
        return original(*arguments, **options)

    monkeypatch.setattr(module, name, replaced)


@pytest.mark.parametrize(
    ("module", "name", "call", "kept"),
    [
        (staged_training, "save_checkpoint", 1, []),
        (staged_training, "write_json", 2, []),
        (staged_training, "save_checkpoint", 3, ["finetune", "soft"]),
        (staged_training, "publish_folder", 1, ["finetune", "soft", "hard", "exits"]),
        (checkpoint_files.shutil, "copyfile", 2, ["finetune", "soft", "hard", "exits"]),
    ],
)
def test_a_killed_run_resumes_without_losing_a_stage(
    capsys, monkeypatch, tmp_path, backbone, texts, trained, module, name, call, kept
):
    out = tmp_path / "model"
    command = ["train", str(backbone), str(texts), str(out), *SHORT]
    with monkeypatch.context() as patch:
        kill_at(patch, module, name, call)
        with pytest.raises(Killed):
            cli.main(command)
    state = json.loads((out / staged_training.STATE_FILE).read_text())
    assert [report["stage"] for report in state["finished"]] == kept
    assert not (out / "config.json").exists()
    started = []
    original = staged_training.run_stages
    monkeypatch.setattr(
        staged_training, "run_stages", lambda *a, **k: (started.extend(k["stages"]), original(*a, **k))[1]
    )
    assert run(capsys, *command)[0] == 0
    assert started == ["finetune", "soft", "hard", "exits"][len(kept) :]
    # The same end as without the interruption.
    assert_same_weights(out, trained)


def steps_of_stage(stage):
    return EPOCHS[stage] * math.ceil(TEXTS / hf_integration.RECIPE[stage]["per_device_train_batch_size"])


@pytest.mark.parametrize(
    ("stage", "step"),
    [("finetune", 5), ("finetune", 8), ("finetune", 62), ("soft", 2), ("hard", 2), ("hard", 4), ("exits", 3)],
)
def test_a_run_killed_inside_a_stage_resumes_inside_it(
    capsys, monkeypatch, tmp_path, backbone, texts, trained, stage, step
):
    out = tmp_path / "model"
    command = ["train", str(backbone), str(texts), str(out), *SHORT, "--save-steps", "3"]
    before = list(EPOCHS)[: list(EPOCHS).index(stage)]
    with monkeypatch.context() as patch:
        # Steps are counted through all stages, from 1.
        kill_at(patch, Trainer, "training_step", sum(map(steps_of_stage, before)) + step)
        with pytest.raises(Killed):
            cli.main(command)
    finished = json.loads((out / staged_training.STATE_FILE).read_text())["finished"]
    assert [report["stage"] for report in finished] == before
    saved = checkpoint_files.last_complete_checkpoint(out / "stages" / "work" / stage)
    kept = 0 if saved is None else checkpoint_files.steps_of(saved)
    assert kept == (step - 1) // 3 * 3
    calls = []
    original = Trainer.training_step
    monkeypatch.setattr(Trainer, "training_step", lambda *a, **k: (calls.append(1), original(*a, **k))[1])
    assert run(capsys, *command)[0] == 0
    # Whatever the checkpoint holds is not run again.
    assert len(calls) == sum(map(steps_of_stage, EPOCHS)) - sum(map(steps_of_stage, before)) - kept
    assert_same_weights(out, trained)
    assert not (out / "stages").exists()


def test_a_checkpoint_with_names_of_old_is_trained_saved_and_resumed(
    capsys, monkeypatch, tmp_path, backbone, texts, trained
):
    old, out = tmp_path / "old", tmp_path / "model"
    shutil.copytree(backbone, old)
    weights = load_file(old / "model.safetensors")
    names = {key: key.replace("LayerNorm.weight", "LayerNorm.gamma") for key in weights}
    names = {key: name.replace("LayerNorm.bias", "LayerNorm.beta") for key, name in names.items()}
    assert sum(key != name for key, name in names.items()) == 10
    save_file({names[key]: tensor for key, tensor in weights.items()}, old / "model.safetensors", {"format": "pt"})
    command = ["train", str(old), str(texts), str(out), *SHORT, "--save-steps", "3"]
    with monkeypatch.context() as patch:
        kill_at(patch, Trainer, "training_step", 11)
        with pytest.raises(Killed):
            cli.main(command)
    assert run(capsys, *command)[0] == 0
    assert_same_weights(out, trained)


def test_a_run_that_the_system_kills_again_and_again_comes_to_the_same_end(tmp_path, backbone, texts, trained):
    out = tmp_path / "model"
    program = "import sys; from mp_plugins import cli; sys.exit(cli.main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "train", backbone, texts, out, *SHORT, "--save-steps", "2"]
    for pattern in ("work/finetune/checkpoint-10", "work/hard/checkpoint-2"):
        with subprocess.Popen(list(map(str, command)), cwd=tmp_path, stderr=subprocess.DEVNULL) as process:
            # Killed as soon as the folder is there, in the middle of what is written into it.
            while not (out / "stages" / pattern).exists() and process.poll() is None:
                time.sleep(0.001)
            process.kill()
        assert process.returncode == -signal.SIGKILL
        assert not (out / "config.json").exists()
    subprocess.run(list(map(str, command)), cwd=tmp_path, check=True, capture_output=True)
    assert_same_weights(out, trained)


def test_a_checkpoint_that_was_not_written_to_its_end_is_left_out(tmp_path):
    for steps, state in ((2, "{}"), (10, '{"global_step": 1'), (9, "{}"), (30, None)):
        folder = tmp_path / f"checkpoint-{steps}"
        folder.mkdir()
        if state is not None:
            (folder / "trainer_state.json").write_text(state)
    assert checkpoint_files.last_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-9"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2", "checkpoint-9"]
    assert checkpoint_files.last_complete_checkpoint(tmp_path / "none") is None


def test_quick_trains_exits_alone_on_a_fine_tuned_checkpoint(capsys, tmp_path, backbone, texts):
    fine, fast = tmp_path / "fine", tmp_path / "fast"
    only = ["--stages", "finetune", "--epochs", "finetune=8"]
    assert run(capsys, "train", backbone, texts, fine, *only)[0] == 0
    code, out, _ = run(capsys, "train", fine, texts, fast, "--quick", "--epochs", "exits=8")
    assert code == 0
    assert "Trained on 60 texts of the columns 'text', 'label'" in out
    assert f"magic-pyramid calibrate {fast}" in out
    before, after = (AutoModelForSequenceClassification.from_pretrained(folder).state_dict() for folder in (fine, fast))
    changed = {key.split(".")[0] for key, tensor in before.items() if not torch.equal(tensor, after[key])}
    assert changed == {"internal_classifiers", "lexical_classifier"}


def test_opinions_are_weighed_on_held_out_texts(capsys, tmp_path, backbone, texts):
    fine, fast = tmp_path / "fine", tmp_path / "fast"
    held_out, other = write_texts(tmp_path / "held-out.csv", 24), write_texts(tmp_path / "other.csv", 30)
    only = ["--stages", "finetune", "--epochs", "finetune=8"]
    assert run(capsys, "train", backbone, texts, fine, *only)[0] == 0
    arguments = ["train", fine, texts, fast, "--quick", "--epochs", "exits=8", "--held-out"]
    assert run(capsys, *arguments, held_out)[0] == 0
    weights = AutoModelForSequenceClassification.from_pretrained(fast).internal_classifiers.opinion_weights
    assert not (weights == 0.5).any()
    code, error = fails(capsys, *arguments, other)
    assert (code, "where held_out differ" in error) == (1, True), error
    code, error = fails(capsys, *["train", backbone, texts, tmp_path / "no", *only, "--held-out", held_out])
    assert (code, "`--held-out` must be left out" in error) == (2, True), error


def test_joint_trains_one_stage_with_a_new_head_and_balanced_classes(capsys, tmp_path, backbone, texts):
    out = tmp_path / "joint"
    arguments = ["train", backbone, texts, out, "--joint", "--balanced", "--epochs", "joint=3"]
    code, printed, _ = run(capsys, *arguments)
    assert code == 0
    assert f"magic-pyramid calibrate {out}" in printed
    state = json.loads((out / staged_training.STATE_FILE).read_text())
    assert [report["stage"] for report in state["finished"]] == ["joint"]
    assert state["plan"]["balanced"]
    model = AutoModelForSequenceClassification.from_pretrained(out)
    assert all(model.internal_classifiers.is_trained(depth) for depth in (0, 1))
    assert model.lexical_classifier.is_trained()
    code, error = fails(capsys, *[argument for argument in arguments if argument != "--balanced"])
    assert (code, "where balanced differ" in error) == (1, True), error


def test_wrong_input_fails_in_one_line(capsys, tmp_path, backbone, texts, trained):
    out = tmp_path / "out"
    empty = tmp_path / "empty.csv"
    empty.write_text("", encoding="utf-8")
    strange = tmp_path / "strange.csv"
    strange.write_text("text,label\na,music\nb,sport\n", encoding="utf-8")
    cases = [
        (["train", backbone, empty, out], 1, "`DATA` must hold at least one row"),
        (["train", backbone, tmp_path / "no.csv", out], 1, "No such file"),
        (["train", backbone, texts, out, "--text-column", "body"], 1, "`--text-column` must be one of"),
        (["train", backbone, texts, out, "--max-length", "99"], 1, "`--max-length` must be from 3 to 40"),
        (["train", backbone, texts, out, "--quick", "--label-column", "label"], 1, "labels of the model"),
        (["train", trained, strange, out, "--quick"], 1, "got 'music'"),
        (["train", tmp_path / "no", texts, out], 1, ""),
        (["train", backbone, texts, trained.parent], 1, "`OUT` must be empty"),
        (["train", backbone, texts, trained], 1, "where epochs differ"),
        (["train", backbone, texts, out, "--seed", "-1"], 2, "`--seed`"),
        (["train", backbone, texts, out, "--num-threads", "0"], 2, "`--num-threads`"),
        (["train", backbone, texts, out, "--save-steps", "0"], 2, "`--save-steps`"),
        (["train", backbone, texts, out, "--epochs", "soft=none"], 2, "`--epochs` must be STAGE=N"),
        (["train", backbone, texts, out, "--quick", "--epochs", "soft=1"], 2, "a stage that runs (exits)"),
    ]
    for arguments, expected, message in cases:
        code, error = fails(capsys, *arguments)
        assert (code, message in error) == (expected, True), error
        assert not out.exists(), "nothing is left of a run that could not start"


def test_quick_refuses_a_checkpoint_without_a_head(capsys, tmp_path, backbone):
    numbered = tmp_path / "numbered.csv"
    numbered.write_text("text,label\nword1,0\nword2,1\n", encoding="utf-8")
    code, error = fails(capsys, "train", backbone, numbered, tmp_path / "out", "--quick")
    assert code == 1
    assert "`MODEL` must be fine-tuned already" in error


def test_the_longest_text_is_what_the_family_has_positions_for():
    config = RobertaConfig(
        vocab_size=99,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=37,
        max_position_embeddings=42,
    )
    model = hf_integration.attach(RobertaForSequenceClassification(config))
    # RoBERTa counts positions from the padding id, 1, on.
    tokenizer = SimpleNamespace(model_max_length=10**30)
    assert checkpoint_files.usable_length(model, tokenizer, None) == 40
    assert checkpoint_files.usable_length(model, tokenizer, 40) == 40
    with pytest.raises(ArgumentError, match="`--max-length` must be from 3 to 40"):
        checkpoint_files.usable_length(model, tokenizer, 41)


def config_of(folder):
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def test_calibrate_stores_the_threshold_and_nothing_else(capsys, tmp_path, trained):
    held_out = write_texts(tmp_path / "held-out.csv", 60, seed=1)
    before = config_of(trained)
    command = ["calibrate", trained, held_out, "--max-loss", "0.3", "--confidence", "0.9"]
    code, out, _ = run(capsys, *command, "--json")
    report = json.loads(out)
    assert code == 0
    assert report["samples"] == 60
    after = config_of(trained)
    assert after == {**before, "exit_threshold": report["exit_threshold"], "max_layers": None, "speed": None}
    assert AutoModelForSequenceClassification.from_pretrained(trained).config.exit_threshold > 0
    code, out, _ = run(capsys, *command)
    assert code == 0
    assert "with a confidence of 0.9 the accuracy is at most 0.3 below" in out
    code, out, _ = run(capsys, *command, "--keep-scales", "0.5", "1", "--json")
    chosen = json.loads(out)
    assert code == 0
    assert chosen["mean_flops"] <= chosen["full_flops"]
    assert (config_of(trained)["exit_threshold"], config_of(trained)["keep_scale"]) == (
        chosen["exit_threshold"],
        chosen["keep_scale"],
    )


def test_calibrate_that_fails_changes_nothing(capsys, tmp_path, trained, backbone):
    few = write_texts(tmp_path / "few.csv", 5, seed=1)
    before = (trained / "config.json").read_bytes()
    cases = [
        (["calibrate", trained, few], 1, "5 calibration samples are too few"),
        (["calibrate", trained, few, "--max-loss", "0"], 2, "`--max-loss` must be between 0 and 1"),
        (["calibrate", trained, few, "--confidence", "1"], 2, "`--confidence` must be between 0 and 1"),
        (["calibrate", tmp_path, few], 2, "`MODEL` must be the folder of a saved model"),
        (["calibrate", trained, few, "--keep-scales", "2"], 1, "`keep_scales` must ascend within [0, 1]"),
        (["calibrate", trained, few, "--label-column", "text"], 1, "labels of the model"),
    ]
    for arguments, expected, message in cases:
        code, error = fails(capsys, *arguments)
        assert (code, message in error) == (expected, True), error
    numbered = tmp_path / "numbered.csv"
    numbered.write_text("text,label\nword1,0\nword2,1\n", encoding="utf-8")
    code, error = fails(capsys, "calibrate", backbone, numbered)
    assert code == 1
    assert "trained internal classifiers" in error
    assert (trained / "config.json").read_bytes() == before
    assert not list(trained.glob(".*"))


@pytest.mark.parametrize("command", ["train", "calibrate", "bench model"])
def test_help_teaches_by_example(capsys, command):
    with pytest.raises(SystemExit) as stop:
        cli.main([*command.split(), "--help"])
    assert stop.value.code == 0
    assert f"magic-pyramid {command} " in capsys.readouterr().out


def test_bench_model_measures_beside_the_plain_model(capsys, tmp_path, trained, texts):
    brief = ["--rounds", "1", "--timed", "16", "--timed-alone", "4", "--num-threads", "1"]
    code, out, error = run(capsys, "bench", "model", trained, texts, *brief, "--json")
    assert code == 0, error
    figures = json.loads(out)
    assert figures["texts"] == 60
    assert figures["gflops"]["magic_pyramid"] > 0
    assert {mode: taken["texts"] for mode, taken in figures["seconds"].items()} == {"batch": 16, "one": 4}
    model = AutoModelForSequenceClassification.from_pretrained(trained).eval()
    tokenizer = AutoTokenizer.from_pretrained(trained)
    lines = [line.rsplit(",", 1) for line in texts.read_text().splitlines()[1:]]
    with torch.no_grad():
        batch = tokenizer([text for text, _ in lines], padding=True, return_tensors="pt")
        labels = torch.tensor([model.config.label2id[label] for _, label in lines])
        plain = (model.plain_model()(**batch).logits.argmax(-1) == labels).double().mean().item()
    assert figures["accuracy"]["plain"] == pytest.approx(plain)
    code, out, error = run(capsys, "bench", "model", trained, texts, *brief, "--prepack")
    assert code == 0, error
    assert "both with prepacked weights" in out
    assert f"plain model      {plain:.2%}" in out
    # Against another checkpoint, which always answers the same.
    other = hf_integration.detach(model)
    other.classifier.bias.data.copy_(torch.tensor([100.0, -100.0]))
    other.save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    code, out, error = run(capsys, "bench", "model", trained, texts, *brief, "--against", tmp_path / "other")
    assert code == 0, error
    assert "plain model" in out
    assert "60 texts of at most 40 tokens" in out
    assert f"plain model      {(labels == 0).double().mean().item():.2%}" in out


def test_bench_refuses_wrong_numbers(capsys, trained, texts):
    for option in ("--batch-size", "--rounds", "--timed", "--timed-alone"):
        assert fails(capsys, "bench", "model", trained, texts, option, "0")[0] == 2
    code, error = fails(capsys, "bench", "model", trained / "no", texts)
    assert code == 1, error
