"""The command line: training, generating, evaluating, and the messages for mistakes of users."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
import yaml
from commands import ROOT, run, run_as_user
from grammar_reader import violations

from fftnet.api.generate import SamplingConfig, generate
from fftnet.cli.main import main
from fftnet.model.fftnet_model import FFTNet
from fftnet.utils.tokenizer import Tokenizer

TINY = (
    "--d_model 16 --num_heads 4 --num_layers 1 --max_seq_length 160 --num_samples 8 --batch_size 4 "
    "--max_steps 3 --pattern_complexity 0"
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    done = run(f"python main.py {TINY} --save_model", folder)
    assert "parameters" in done.stderr
    assert "tokens/s" in done.stderr
    assert done.stderr.endswith("saved to outputs/best; try: fftnet generate outputs/best\n")
    assert [line for line in done.stderr.splitlines() if re.match(r" +sample: ['\"]", line)]
    return folder


def test_training_writes_checkpoints_metrics_and_a_plot(trained: Path) -> None:
    outputs = trained / "outputs"
    names = {"best", "last", "step-00000002", "step-00000003", "logs", "loss_plot.png", "metrics.json"}
    assert {path.name for path in outputs.iterdir()} == names | {".fftnet.lock"}
    report = json.loads((outputs / "metrics.json").read_text())
    assert report["final"]["step"] == 3
    assert 0 < report["entropy_floor"] < report["final"]["loss"]
    assert report["final"].keys() >= {"loss", "perplexity", "accuracy", "first_position_loss"}
    assert report["final"]["bits_per_byte"] > 0


def test_generation_is_repeatable_with_a_seed(trained: Path) -> None:
    command = "python example.py --prompt Mira --max_new_tokens 20 --seed 3 --top_k 40 --top_p 0.9"
    first = run(command, trained)
    second = run(command, trained)
    assert first.stdout.startswith("Mira")
    assert first.stdout == second.stdout
    assert "tokens/s" in first.stderr
    assert "outputs/best" in first.stderr
    other = run("python example.py --max_new_tokens 20 --seed 4 --checkpoint outputs/last", trained)
    assert other.stdout != first.stdout


def test_evaluate_prints_a_table_and_json_on_demand(trained: Path) -> None:
    command = "fftnet evaluate --num_samples 8 --pattern_complexity 0"
    report = json.loads(run(f"{command} --json", trained).stdout)
    assert report["split"] == "test"
    assert report["loss"] > 1
    assert f"loss                 {report['loss']:.4f}\n" in run(command, trained).stdout


def test_a_backend_that_cannot_run_ends_in_a_sentence(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FFTNET_BACKEND", "magic")
    for command in ("evaluate --num_samples 8 --pattern_complexity 0", "generate"):
        done = run_as_user(f"fftnet {command}", trained, code=2)
        assert "error: unknown backend 'magic'; choose from auto, torch" in done.stderr


def test_a_closed_output_ends_a_command_silently(trained: Path) -> None:
    command = [sys.executable, "-m", "fftnet", "generate"]
    with subprocess.Popen(command, cwd=trained, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        told = process.stderr.read().decode()
    assert process.returncode == 141
    assert "Error" not in told


def test_another_tokenizer_and_a_text_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("The quick brown fox jumps over the lazy dog. " * 200)
    (tmp_path / "b.txt").write_text("Pack my box with five dozen liquor jugs. " * 200)
    tiny = TINY.replace("--max_seq_length 160", "--max_seq_length 32")
    flags = "--tokenizer bpe --vocab_size 300"
    run(f"fftnet train --data a.txt b.txt {flags} {tiny} --no_save_model", tmp_path)
    assert not (tmp_path / "outputs" / "last").exists()
    run(f"fftnet train --data *.txt {flags} {tiny} --overwrite", tmp_path)
    assert (tmp_path / "outputs" / "last" / "tokenizer.json").is_file()
    run("fftnet generate --max_new_tokens 5", tmp_path)
    report = json.loads(run("fftnet evaluate --data a.txt --json", tmp_path).stdout)
    assert report["bits_per_byte"] > 0


def test_a_bidirectional_model_trains_on_masked_tokens_and_does_not_write(tmp_path: Path) -> None:
    run(f"fftnet train {TINY} --no_causal --task masked_token", tmp_path)
    done = run("fftnet generate", tmp_path, code=2)
    assert "is bidirectional and can't write" in done.stderr


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("python example.py", r"no checkpoint under outputs/: train a model with fftnet train --data my"),
        ("fftnet train --d_model four", r"d_model"),
        ("fftnet train --data nowhere.txt", r"nowhere\.txt matches no file"),
        ("fftnet train --data latin.txt", r"latin\.txt is not UTF-8 text \(byte 3\)"),
        ("fftnet train --tokenizer word", r"unknown tokenizer 'word'"),
        ("fftnet train --no_causal", r"next-token training needs causal=True"),
        ("fftnet train --task guess", r"unknown task 'guess'; choose from next_token, masked_token"),
        ("fftnet train --mixers magic", r"unknown mixer 'magic'; choose from"),
        ("fftnet train --config nowhere.yaml", r"nowhere\.yaml"),
        ("fftnet train --resume nowhere", r"nowhere does not exist: name the folder of a checkpoint"),
        ("fftnet train --data nowhere.txt --output_dir old", r"^error: old holds the checkpoints of another"),
        ("fftnet train --resume --overwrite", r"resume continues a run and overwrite replaces it: leave one"),
        ("fftnet train --precision fp16 --device cpu", r"fp16 needs a GPU: choose --precision bf16"),
        ("fftnet train --strategy fsdp", r"fsdp needs several processes: start them with torchrun"),
        ("fftnet train --trackers nothing", r"tracker 'nothing' is not installed: pip install nothing"),
        ("fftnet train --schedule linear", r"unknown schedule 'linear'; choose from cosine, wsd"),
        ("fftnet train --output_dir blank.txt", r"blank\.txt"),
        ("fftnet train --carry_state 2", r"carry_state needs text: synthetic samples fit a window"),
        ("fftnet train --data long.txt --carry_state 2 --reset_at_documents", r"leave out reset_at_docu"),
        ("fftnet train --data long.txt --carry_state 2 --task masked_token", r"a causal one, and next_token"),
        ("fftnet train --data long.txt --carry_state 2 --batch_size 8", r"has \d+ tokens, 8 rows of carry_"),
        ("fftnet evaluate --carry_state 2", r"carry_state"),
        ("fftnet generate --temperature -1", r"temperature must be 0 or more"),
        ("fftnet dance", r"unknown command 'dance'; choose from train, generate"),
        ("fftnet trian --data a.txt", r"unknown command 'trian': did you mean train\?"),
        ("fftnet train --learning-rat 1", r"unknown flag --learning-rat: did you mean --learning_rate\?"),
    ],
)
def test_a_users_mistake_ends_in_a_sentence(tmp_path: Path, command: str, message: str) -> None:
    (tmp_path / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    (tmp_path / "blank.txt").write_text("\n")
    (tmp_path / "long.txt").write_text("A text that is long enough. " * 30)
    (tmp_path / "old" / "step-00000001").mkdir(parents=True)
    (tmp_path / "old" / "step-00000001" / "manifest.json").touch()
    done = run(command, tmp_path, code=2)
    assert re.search(message, done.stderr), done.stderr
    assert len(done.stderr.splitlines()) < 4


def test_a_missing_pytorch_names_its_wheels_without_cuda(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for package, named in ("torch", True), ("accelerate", False):
        missing = ModuleNotFoundError(f"No module named {package!r}", name=package)
        monkeypatch.setattr("fftnet.cli.main.import_module", Mock(side_effect=missing))
        assert main(["train"]) == 2
        told = capsys.readouterr().err
        assert f"error: {package} is not installed: pip install '.[all]' in a clone" in told
        assert ("--extra-index-url https://download.pytorch.org/whl/cpu" in told) == named


def test_generated_texts_mostly_obey_the_grammar(tmp_path: Path) -> None:
    run(
        "python main.py --d_model 64 --num_layers 2 --num_epochs 6 --num_samples 1000 --max_seq_length 128 "
        "--pattern_complexity 0",
        tmp_path,
    )
    texts = [run("python example.py --seed 0", tmp_path).stdout.strip()]
    model = FFTNet.from_pretrained(tmp_path / "outputs" / "best")
    tokenizer = Tokenizer.load(tmp_path / "outputs" / "best")
    for seed in range(1, 8):
        texts += generate(model, [""], SamplingConfig(seed=seed), tokenizer=tokenizer).texts
    kept = sum(violations(text.strip(), 0.0) == [] for text in texts)
    assert kept >= 6, texts


def test_a_printed_config_can_be_read_again(tmp_path: Path) -> None:
    printed = run(
        "fftnet train --d_model 64 --data python-docs --no_save_model --print_config", tmp_path
    ).stdout
    values = yaml.safe_load(printed)
    assert (values["d_model"], values["data"], values["save_model"]) == (64, ["python-docs"], False)
    (tmp_path / "c.yaml").write_text(printed)
    again = run("fftnet train --config c.yaml --num_layers 2 --print_config", tmp_path).stdout
    assert yaml.safe_load(again) == values | {"num_layers": 2}


def test_the_commands_for_many_machines_have_the_right_flags(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs" / "scaling.md").read_text()
    commands = re.findall(r"^ +.*(?:-m fftnet|fftnet) train (.*)$", text, re.MULTILINE)
    assert len(commands) >= 6
    for flags in commands:
        with pytest.raises(SystemExit) as ended:
            main(["train", *shlex.split(flags), "--print_config"])
        assert ended.value.code == 0
        assert yaml.safe_load(capsys.readouterr().out)["resume"] == "auto"


def test_resume_refuses_another_vocabulary(tmp_path: Path) -> None:
    words = (f"{a}{b}{c} " for a in "bdfgklmnp" for b in "aeiou" for c in "lmnrst")
    (tmp_path / "a.txt").write_text("".join(words) * 9)
    flags = f"{TINY} --data a.txt --tokenizer bpe --max_seq_length 32"
    run(f"python main.py {flags} --vocab_size 300", tmp_path)
    done = run(f"python main.py {flags} --vocab_size 290 --resume", tmp_path, code=2)
    assert "was trained with other settings" in done.stderr
    assert "run.model.vocab_size 300, not 290" in done.stderr
    assert "run.tokenizer" in done.stderr


def test_every_recipe_is_a_configuration(tmp_path: Path) -> None:
    recipes = sorted((ROOT / "recipes").glob("*.yaml"))
    assert recipes
    for recipe in recipes:
        printed = yaml.safe_load(run(f"fftnet train --config {recipe} --print_config", tmp_path).stdout)
        assert yaml.safe_load(recipe.read_text()).items() <= printed.items()
