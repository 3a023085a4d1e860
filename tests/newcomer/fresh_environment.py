"""The README in a fresh environment: the wheel and its extras, away from the repository, as a user has them.

``make newcomer`` runs this file. It is not part of ``make test``, because it downloads all packages, 3 GB. To
repeat it with an environment that exists already, name its folder in FFTNET_ENVIRONMENT.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from test_readme import SMALL, blocks, check_output

ROOT = Path(__file__).resolve().parents[2]
MODEL = "models/shakespeare"
FILES = ("main.py", "example.py", "models", "recipes", "examples")
"""Files of a clone, besides the package, that the README's commands may use."""
SHORT = f"{SMALL} --max_seq_length 32"
"""Flags that make the training of a README command short."""
ELSEWHERE = ("make", "source")
"""First words of README commands that make and activate an environment, which the fixture does here."""
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
TASK = """task: next_word
dataset_path: json
dataset_kwargs: {data_files: {validation: questions.jsonl}}
validation_split: validation
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: answer
target_delimiter: ""
metric_list: [{metric: acc}]
"""
QUESTION = {"question": "To be, or not to", "choices": [" be", " fx", " qk"], "answer": 0}


class Home:
    """A user's folder outside of the repository, and the environment whose programs run there.

    Args:
        folder: the user's folder.
        programs: folder of the environment's programs.
    """

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder = folder
        self.programs = programs
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL"))
        }
        self.variables = kept | OFFLINE | {"PATH": f"{programs}:{os.environ['PATH']}", "COLUMNS": "100"}

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment to its end."""
        command = [str(self.programs / words[0]), *words[1:]]
        done = subprocess.run(
            command, cwd=self.folder, env=self.variables, capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, f"{shlex.join(words)}: {done.stderr[-3000:]}"
        return done

    def fftnet(self, words: str) -> str:
        """Run a command of the package and return its standard output."""
        return self.run("fftnet", *shlex.split(words)).stdout

    @contextmanager
    def server(self, words: str) -> Iterator[str]:
        """Run a server of the package and yield its address; it must end when it is asked to."""
        log = self.folder / "server.log"
        command = [str(self.programs / "fftnet"), *shlex.split(words), "--port", "0"]
        with log.open("w") as file:
            process = subprocess.Popen(
                command, cwd=self.folder, env=self.variables, stdout=file, stderr=subprocess.STDOUT
            )
        try:
            deadline = time.monotonic() + 300
            while (found := re.search(r"http://127\.0\.0\.1:\d+\S*", log.read_text())) is None:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
            yield found[0]
            process.send_signal(signal.SIGINT)
            assert process.wait(30) in (0, 130, -signal.SIGINT)
        finally:
            process.kill()


def install(folder: Path) -> Path:
    """Build the wheel, install it with its extras into a new environment, and return the environment."""
    # From a copy: a build leaves files in the tree, and takes in those of an earlier one.
    tree = folder / "tree"
    shutil.copytree(ROOT / "fftnet", tree / "fftnet", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    environment = folder / "environment"
    python = str(environment / "bin" / "python")
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(tree)]
    subprocess.run(build, check=True)
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    (wheel,) = folder.glob("*.whl")
    # PyTorch first, as in the Makefile: its index decides whether it is the one for CPUs.
    for packages in (["torch"], [f"{wheel}[all,eval]", "openai"]):
        constraints = ["--constraint", str(ROOT / "constraints.txt")]
        subprocess.run([python, "-m", "pip", "install", "-q", *constraints, *packages], check=True)
    return environment


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    existing = os.environ.get("FFTNET_ENVIRONMENT")
    environment = Path(existing) if existing else install(tmp_path_factory.mktemp("installed"))
    folder = tmp_path_factory.mktemp("home")
    for name in FILES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name)
        elif source.is_file():
            shutil.copy(source, folder)
    (folder / "my.txt").write_text("It is the east, and Juliet is the sun.\n" * 400, encoding="utf-8")
    return Home(folder, environment.resolve() / "bin")


def test_the_package_is_the_installed_one(home: Home) -> None:
    place = home.run("python", "-c", "import fftnet; print(fftnet.__file__)").stdout.strip()
    if "FFTNET_ENVIRONMENT" not in os.environ:
        assert Path(place).is_relative_to(home.programs.parent)


def test_shell_blocks_run(home: Home) -> None:
    commands = [
        shlex.split(line, comments=True) for block in blocks("sh") for line in block.text.splitlines()
    ]
    for words in commands:
        if words and words[0] not in ELSEWHERE:
            # main.py has a flag for everything that makes a run long.
            small = "--pattern_complexity 0 --num_samples 8 --max_seq_length 160"
            home.run(*words, *shlex.split(f"{SHORT} {small}") * (words[1:2] == ["main.py"]))


def test_console_blocks_print_what_the_readme_shows(home: Home) -> None:
    for block in blocks("console"):
        for example in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
            command, _, shown = example.partition("\n")
            words = shlex.split(command)
            done = home.run(*words, *shlex.split(SHORT) * ("train" in words))
            check_output(done.stdout if "generate" in words else done.stderr + done.stdout, shown)


def test_python_blocks_print_what_the_readme_shows(home: Home) -> None:
    # One program, as a reader types them one after the other.
    found = blocks("python")
    printed = home.run("python", "-c", "\n".join(block.text for block in found)).stdout
    check_output(printed, "".join(block.output for block in found))


def test_a_program_without_our_package_in_its_source_loads_the_model(home: Home) -> None:
    code = (
        "from transformers import AutoModelForCausalLM\n"
        f"model = AutoModelForCausalLM.from_pretrained('{MODEL}', trust_remote_code=True)\n"
        "print(type(model).__module__)"
    )
    assert home.run("python", "-c", code).stdout.split()[-1].startswith("fftnet.hf")


def test_a_run_is_resumed(home: Home) -> None:
    command = f"train --data my.txt {SHORT} --output_dir outputs/resumed"
    home.fftnet(command)
    assert "at step 3" in home.run("fftnet", *shlex.split(command), "--resume").stderr


def test_a_classifier_and_a_pipeline_agree(home: Home) -> None:
    words = {"counting": "one two three four five", "weather": "rain wind snow hail sun"}
    rows = [f"{a} {b} {a},{kind}" for kind, some in words.items() for a in some.split() for b in some.split()]
    (home.folder / "labelled.csv").write_text("\n".join(["text,label", *rows]))
    sizes = "--d_model 32 --num_layers 1 --batch_size 8 --max_steps 60 --output_dir outputs/kinds"
    home.fftnet(f"train --task classification --data labelled.csv {sizes}")
    (told,) = map(json.loads, home.fftnet("predict outputs/kinds/best --text 'snow and wind'").splitlines())
    code = (
        "from transformers import pipeline\n"
        "ask = pipeline('text-classification', model='outputs/kinds/best', trust_remote_code=True)\n"
        "print(ask('snow and wind')[0]['label'])"
    )
    assert told["label"] == home.run("python", "-c", code).stdout.split()[-1] == "weather"


def test_the_evaluation_harness_runs_a_local_task(home: Home) -> None:
    (home.folder / "tasks").mkdir()
    (home.folder / "tasks" / "next_word.yaml").write_text(TASK)
    (home.folder / "questions.jsonl").write_text(json.dumps(QUESTION))
    words = f"lm_eval --model_args checkpoint={MODEL} --tasks next_word --include_path tasks"
    found = re.search(r"\|acc\s*\|.\s*\|\s*([\d.]+)", home.fftnet(words))
    assert found
    assert float(found[1]) == 1.0


def test_an_exported_model_writes_the_same(home: Home) -> None:
    home.fftnet(f"export {MODEL} --output exported")
    words = "generate --prompt ROMEO. --max_new_tokens 60 --temperature 0.8 --seed 5 --checkpoint"
    assert home.fftnet(f"{words} {MODEL}") == home.fftnet(f"{words} exported --runtime onnx")


def test_the_server_answers_the_openai_client(home: Home) -> None:
    flags = "--max_new_tokens 30 --temperature 0.8 --seed 5"
    code = (
        "import sys, openai\n"
        "client = openai.OpenAI(base_url=sys.argv[1], api_key='none', max_retries=0)\n"
        "asked = dict(model='fftnet', prompt='ROMEO.', max_tokens=30, temperature=0.8, seed=5)\n"
        "print('ROMEO.' + client.completions.create(**asked).choices[0].text)"
    )
    with home.server(f"serve {MODEL}") as address:
        reply = home.run("python", "-c", code, address).stdout
    assert reply == home.fftnet(f"generate {MODEL} --prompt ROMEO. {flags}")


def test_pictures_and_the_demo_page_are_made(home: Home) -> None:
    pictures = home.fftnet(f"inspect {MODEL} --prompt 'To be, or not to be'").split()
    assert len(pictures) > 5
    assert all((home.folder / path).read_bytes().startswith(b"\x89PNG") for path in pictures)
    home.fftnet(f"demo {MODEL} --no_serve")
