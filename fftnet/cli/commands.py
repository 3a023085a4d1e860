"""The table of commands, with their descriptions, examples and common flags."""

from typing import NamedTuple


class Command(NamedTuple):
    """Help of a command, except its flags."""

    about: str
    """Description in one sentence, in ``fftnet --help`` and at the top of the command's help."""
    examples: tuple[str, ...]
    """Examples at the end of the help."""
    positional: tuple[str, ...] = ()
    """Flags whose names are optional, in the order of their values on the command line."""
    common: tuple[str, ...] = ()
    """Flags in --help, in this order; --help_all shows all (empty: --help shows all)."""


COMMANDS = {
    "train": Command(
        "Train a model on text, on labelled texts or on images.",
        (
            "fftnet train my.txt --max_steps 500 --output_dir outputs/mine",
            "fftnet train --task classification --data reviews.csv --output_dir outputs/reviews",
            "fftnet train --config recipes/shakespeare.yaml --data my.txt --resume",
        ),
        positional=("data",),
        common=(
            *("data", "tokenizer", "task", "d_model", "num_layers", "num_heads", "mixers"),
            *("max_seq_length", "batch_size", "learning_rate", "num_epochs", "max_steps", "max_minutes"),
            *("device", "seed", "init_from", "output_dir", "resume", "overwrite"),
        ),
    ),
    "generate": Command(
        "Continue a prompt with a trained language model.",
        (
            r'fftnet generate models/shakespeare --prompt "JULIET.\n" --temperature 0.6',
            "fftnet generate models/shakespeare -i",
            "cat beginning.txt | fftnet generate outputs --max_new_tokens 100",
        ),
        positional=("checkpoint",),
    ),
    "evaluate": Command(
        "Measure a model on texts, or a classifier on labelled data.",
        (
            "fftnet evaluate outputs --data my.txt",
            "fftnet evaluate outputs --data reviews.csv --json",
            "fftnet evaluate models/shakespeare --data other.txt --whole --plot loss.png",
        ),
        positional=("checkpoint",),
    ),
    "predict": Command(
        "Classify texts or images with a trained classifier.",
        (
            "fftnet predict outputs reviews.csv --output answers.csv",
            'fftnet predict outputs --text "what a film"',
            "cat lines.txt | fftnet predict outputs",
            "fftnet predict outputs photos/",
        ),
        positional=("checkpoint", "file"),
    ),
    "inspect": Command(
        "Draw filters, spectra, weights and losses of a model on a text.",
        ('fftnet inspect models/shakespeare --prompt "To be, or not to be"',),
        positional=("checkpoint",),
    ),
    "serve": Command(
        "Serve a trained model over HTTP, with OpenAI's interface.",
        ("fftnet serve models/shakespeare --port 8000",),
        positional=("checkpoint",),
    ),
    "demo": Command(
        "Make and serve a page that runs a trained model in the browser.",
        ("fftnet demo models/shakespeare", "fftnet demo outputs --output page --no_serve"),
        positional=("checkpoint",),
    ),
    "export": Command(
        "Export a trained model to ONNX.",
        ("fftnet export models/shakespeare --output exported --int8",),
        positional=("checkpoint",),
    ),
    "compress": Command(
        "Compress any file without loss, with a language model.",
        ("fftnet compress play.txt", "fftnet compress my.log --model outputs/best --streams 16"),
        positional=("file",),
    ),
    "decompress": Command(
        "Restore a file of fftnet compress, with the same model.",
        ("fftnet decompress play.txt.fftnet", "fftnet decompress play.txt.fftnet --output copy.txt"),
        positional=("file",),
    ),
    "lm_eval": Command(
        "Run the Language Model Evaluation Harness on a trained model.",
        ("fftnet lm_eval --model_args checkpoint=outputs/best --tasks lambada_openai",),
    ),
}
"""Name to command; each is a module of this package with a function ``run``, imported on use."""


def overview() -> str:
    """Return the text of ``fftnet --help``."""
    sections = {
        "start here": [
            ("fftnet generate models/shakespeare", "generate with the model of this repository"),
            ("fftnet train my.txt", "train a model on your own text"),
            ("fftnet generate", "generate with the newest model in outputs/"),
        ],
        "commands": [(name, command.about) for name, command in COMMANDS.items()],
        "help": [
            ("fftnet COMMAND --help", "show the flags and examples of a command"),
            ("fftnet --version", "show the version of this package"),
        ],
    }
    lines = ["usage: fftnet COMMAND [flags]"]
    for title, rows in sections.items():
        width = max(len(left) for left, _ in rows)
        lines += ["", f"{title}:", *(f"  {left:{width}}  {right}" for left, right in rows)]
    return "\n".join(lines)
