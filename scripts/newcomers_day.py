"""A newcomer's day: the wheel in a fresh environment, away from the repository, used as its pages say.

``python scripts/newcomers_day.py`` builds the wheel, makes a virtual environment with it, its extras and the
clients of other people, and runs itself there, in a folder with the shipped model and nothing else. Every
step prints the promise, its seconds and what was seen; the first broken one ends the script with status 1.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from newcomers_session import MODEL, PROMPT, Session, promise

ROOT = Path(__file__).resolve().parents[1]
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
QUESTIONS = """{"question": "To be, or not to", "choices": [" be", " fx", " qk"], "answer": 0}
{"question": "What is thy na", "choices": ["zg", "me", "vv"], "answer": 1}
{"question": "Enter the King and the Que", "choices": ["xt", "ww", "en"], "answer": 2}
"""
SETTINGS = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "GOMP_SPINCOUNT": "4000"}
SETTINGS |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}
"""No step asks the network, and threads wait as docs/performance.md advises who imports the library."""


def execute(words: list[str], timeout: int = 900) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, as text.

    Raises:
        BrokenPromise: with the end of what it has said, if it fails.
    """
    done = subprocess.run(words, capture_output=True, text=True, timeout=timeout)
    promise(done.returncode == 0, f"{' '.join(words)}: status {done.returncode}\n{done.stderr[-3000:]}")
    return done


def fftnet(words: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the package that the environment of this interpreter holds."""
    return execute([str(Path(sys.executable).with_name("fftnet")), *words.split()])


def perform(step: Callable[..., str], *arguments: Any) -> None:
    """Run a step and print its line; a broken promise, or any error, ends the script."""
    what = (step.__doc__ or "").splitlines()[0]
    start = time.perf_counter()
    try:
        seen = step(*arguments)
    except Exception as error:
        seconds = time.perf_counter() - start
        print(f"BROKEN: {what} {seconds:.1f} s. {type(error).__name__}: {error}", flush=True)
        sys.exit(1)
    print(f"{what} {time.perf_counter() - start:.1f} s. Seen: {seen}", flush=True)


# In the repository, with any Python.


def build_the_wheel(folder: Path) -> str:
    """The wheel is built, from a copy: a build leaves files behind, and finds those of the last one."""
    tree = folder / "tree"
    shutil.copytree(ROOT / "fftnet", tree / "fftnet", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    execute([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(tree)])
    shutil.rmtree(tree)
    (wheel,) = folder.glob("*.whl")
    return f"{wheel.name}, {wheel.stat().st_size:,} bytes"


def make_an_environment(folder: Path) -> str:
    """A fresh environment holds the wheel with its extras; PyTorch came first, as in the Makefile."""
    execute([sys.executable, "-m", "venv", str(folder / "venv")])
    python = str(folder / "venv" / "bin" / "python")
    install = [python, "-m", "pip", "install", "-q", "--constraint", str(ROOT / "constraints.txt")]
    (wheel,) = folder.glob("*.whl")
    execute([*install, "torch"])
    execute([*install, f"{wheel}[all,eval]", "openai", "peft", "playwright"], timeout=1800)
    packages = execute([python, "-m", "pip", "list", "--format", "freeze"]).stdout.splitlines()
    (torch,) = (line for line in packages if line.startswith("torch=="))
    return f"{len(packages)} packages, {torch}"


def leave_the_repository(folder: Path) -> str:
    """The user's folder holds the model, and a task with its rows."""
    home = folder / "home"
    shutil.copytree(ROOT / "models" / MODEL, home / MODEL)
    for path in ROOT.joinpath("scripts").glob("newcomers_*.py"):
        shutil.copy(path, folder)
    (home / "tasks").mkdir()
    (home / "tasks" / "next_word.yaml").write_text(TASK)
    (home / "questions.jsonl").write_text(QUESTIONS)
    return str(home)


# In the fresh environment, in the user's folder.


def find_the_installed_package() -> str:
    """The package is the installed one, and not the repository's."""

    import fftnet as package

    place = Path(package.__file__)
    promise(place.is_relative_to(sys.prefix), f"fftnet comes from {place}, not from the environment")
    promise(not any(ROOT.joinpath(name).exists() for name in ("pyproject.toml", "fftnet")), "not away")
    return f"fftnet {package.__version__} in {place.parent.relative_to(sys.prefix)}"


def load_without_importing_us() -> str:
    """A tool that never imports the package loads the model."""
    code = (
        "from transformers import AutoModelForCausalLM as Auto\n"
        f"print(type(Auto.from_pretrained('{MODEL}', trust_remote_code=True)).__module__)"
    )
    module = execute([sys.executable, "-c", code]).stdout.split()[-1]
    promise(module.startswith("fftnet.hf"), f"the class comes from {module}")
    return f"trust_remote_code leads to {module}"


def train_and_go_on() -> str:
    """fftnet train, the same with --resume, and fftnet generate."""
    flags = "train --data python-docs --d_model 32 --num_layers 1 --max_seq_length 64 --save_model"
    fftnet(f"{flags} --max_steps 6")
    told = fftnet(f"{flags} --max_steps 6 --resume").stderr
    promise("at step 6" in told, f"--resume does not say where it goes on: {told[-500:]}")
    fftnet("generate --prompt The --max_new_tokens 5")
    return "6 steps, a run that finds them done, and fftnet generate writes with what they left"


def classify_texts() -> str:
    """fftnet train makes a classifier of a table; a pipeline answers what fftnet predict does."""

    from transformers import pipeline

    words = {"counting": "one two three four five", "weather": "rain wind snow hail sun"}
    rows = [f"{a} {b} {a},{kind}" for kind, some in words.items() for a in some.split() for b in some.split()]
    Path("labelled.csv").write_text("\n".join(["text,label", *rows]))
    sizes = "--d_model 32 --num_layers 1 --batch_size 8 --max_steps 60 --output_dir kinds --save_model"
    fftnet(f"train --task classification --data labelled.csv {sizes}")
    new = ["snow and wind", "four and five"]
    Path("new.txt").write_text("\n".join(new))
    told = [json.loads(line) for line in fftnet("predict kinds/best new.txt").stdout.splitlines()]
    shared = pipeline("text-classification", model="kinds/best", trust_remote_code=True)(new)
    for line, answer, kind in zip(told, shared, ["weather", "counting"], strict=True):
        promise(line["label"] == answer["label"] == kind, f"{line}, the pipeline says {answer}")
        promise(abs(line["probability"] - answer["score"]) < 1e-4, f"{line}, the pipeline says {answer}")
    return f"{len(rows)} rows, 60 steps; {new[0]!r} is {told[0]['label']} in both"


def ask_the_evaluation_harness() -> str:
    """fftnet lm_eval on a task of one's own, without a network."""
    words = f"lm_eval --model_args checkpoint={MODEL} --tasks next_word --include_path tasks"
    table = fftnet(words).stdout
    found = re.search(r"\|acc\s*\|.\s*\|\s*([\d.]+)", table)
    promise(found and float(found[1]) == 1.0, f"three easy questions are not all answered: {table}")
    return f"next_word, a task of three local questions: accuracy {found[1] if found else None}"


def export_to_ONNX() -> str:
    """fftnet export makes an ONNX model."""
    fftnet(f"export {MODEL} --output exported")
    (size,) = (path.stat().st_size for path in Path("exported").glob("step.onnx*"))
    return f"{len(list(Path('exported').iterdir()))} files, step.onnx of {size:,} bytes"


def write_with_ONNX_Runtime() -> str:
    """fftnet generate --runtime onnx writes what PyTorch writes."""
    for flags in ("--temperature 0", "--temperature 0.8 --seed 5"):
        words = f"generate --prompt {PROMPT} --max_new_tokens 60 {flags} --checkpoint"
        by_torch = fftnet(f"{words} {MODEL}").stdout
        by_onnx = fftnet(f"{words} exported --runtime onnx").stdout
        promise(by_torch == by_onnx, f"PyTorch writes {by_torch!r}, ONNX Runtime {by_onnx!r}")
    return f"the same texts as PyTorch, greedily and with a seed: {by_onnx!r}"


@contextmanager
def server(name: str) -> Iterator[str]:
    """The address of ``fftnet serve`` or ``fftnet demo`` while it runs; it must end when it is asked to."""
    command = [str(Path(sys.executable).with_name("fftnet")), name, MODEL, "--port", "0"]
    said = Path(f"{name}.log")
    with said.open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        until = time.monotonic() + 300
        while (found := re.search(r"http://127\.0\.0\.1:\d+\S*", said.read_text())) is None:
            promise(process.poll() is None and time.monotonic() < until, said.read_text())
            time.sleep(0.1)
        yield found[0]
        process.send_signal(signal.SIGINT)
        promise(process.wait(30) in (0, 130, -signal.SIGINT), f"the server ended with {process.returncode}")
    finally:
        process.kill()


def serve_and_ask_with_openai() -> str:
    """fftnet serve, asked by the openai client: a completion, and a chat that is streamed."""

    from openai import OpenAI

    with server("serve") as address:
        client = OpenAI(base_url=address, api_key="none", max_retries=0)
        reply = client.completions.create(
            model="fftnet", prompt=PROMPT, max_tokens=60, temperature=0.8, seed=5
        )
        flags = "--max_new_tokens 60 --temperature 0.8 --seed 5"
        told = fftnet(f"generate {MODEL} --prompt {PROMPT} {flags}").stdout
        promise(f"{PROMPT}{reply.choices[0].text}\n" == told, f"a completion is {reply.choices[0].text!r}")
        chat: dict[str, Any] = {
            "model": "fftnet",
            "messages": [{"role": "user", "content": "Who is there?"}],
            "max_tokens": 60,
            "seed": 1,
        }
        whole = client.chat.completions.create(**chat).choices[0].message.content
        parts = [
            part.choices[0].delta.content or ""
            for part in client.chat.completions.create(**chat, stream=True)
        ]
    promise("".join(parts) == whole, f"streamed {''.join(parts)!r}, whole {whole!r}")
    return f"the text of fftnet generate; a chat in {len(parts)} parts, streamed as whole: {whole!r}"


def look_inside() -> str:
    """fftnet inspect draws its pictures."""
    printed = execute(
        [str(Path(sys.executable).with_name("fftnet")), "inspect", MODEL, "--prompt", "To be, or not to be"]
    ).stdout.split()
    pictures = [path for path in printed if Path(path).read_bytes().startswith(b"\x89PNG")]
    promise(len(pictures) == len(printed) > 5, f"pictures: {printed}")
    return f"{len(pictures)} pictures in {Path(pictures[0]).parent}"


def write_in_a_browser() -> str:
    """fftnet demo serves a page that writes in a browser what fftnet generate writes."""

    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        fftnet(f"demo {MODEL} --no_serve")
        return "the page is made; there is no Chromium here to open it in"
    with server("demo") as address, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(address)
        page.wait_for_selector("#write:not([disabled])")
        page.fill("#prompt", PROMPT)
        page.focus("#temperature")
        page.keyboard.press("Home")  # Temperature 0: the likeliest token each time.
        page.evaluate("(count) => demo.writer.begin(count)", 60)
        written = page.evaluate("document.getElementById('text').textContent")
        pace = page.inner_text("#speed")
        browser.close()
    told = fftnet(f"generate {MODEL} --prompt {PROMPT} --max_new_tokens 60 --temperature 0").stdout
    promise(f"{written}\n" == told, f"the page writes {written!r}, Python {told!r}")
    return f"{written!r}, {pace} tokens/s in {Path(chromium).name}"


def outside(folder: Path) -> int:
    """The first half of the day, then the second in the new environment; its status."""
    perform(build_the_wheel, folder)
    perform(make_an_environment, folder)
    perform(leave_the_repository, folder)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL"))}
    words = [str(folder / "venv" / "bin" / "python"), str(folder / "newcomers_day.py"), "--inside"]
    return subprocess.run(words, cwd=folder / "home", env=kept | SETTINGS).returncode


def inside() -> None:
    """The second half: what a user does with the installed package."""
    perform(find_the_installed_package)
    perform(load_without_importing_us)
    for step in Session().steps():
        perform(step)
    commands = (
        train_and_go_on,
        classify_texts,
        ask_the_evaluation_harness,
        export_to_ONNX,
        write_with_ONNX_Runtime,
        serve_and_ask_with_openai,
        look_inside,
        write_in_a_browser,
    )
    for step in commands:
        perform(step)
    print("the day is over: every promise was kept", flush=True)


def main() -> int:
    """Run the day in a temporary folder, or in one that is kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path, help="empty folder for wheel, environment and files, which stay")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        inside()
        return 0
    if given.keep is not None:
        given.keep.mkdir(parents=True, exist_ok=True)
        return outside(given.keep.resolve())
    with tempfile.TemporaryDirectory() as folder:
        return outside(Path(folder))


if __name__ == "__main__":
    sys.exit(main())
