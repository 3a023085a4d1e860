"""A user's Python session with Transformers: the part of ``newcomers_day.py`` that needs no command.

Packages are imported where they are used: as one types them in, and because the first half of the day has
none.
"""

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator
from typing import Any

MODEL = "shakespeare"
PROMPT = "ROMEO."


class BrokenPromise(Exception):
    """Something is not as the documentation says."""


def promise(kept: object, sentence: str) -> None:
    """Raise ``BrokenPromise`` with the sentence unless the promise is kept."""
    if not kept:
        raise BrokenPromise(sentence)


class Session:
    """What stays in a user's Python session: the model in Transformers, and its tokenizer."""

    def __init__(self) -> None:
        self.lm: Any = None
        self.tokenizer: Any = None

    def steps(self) -> Iterator[Callable[[], str]]:
        """The steps in their order."""
        yield self.load_with_the_Auto_classes
        yield self.write_greedily
        yield self.sample_with_a_seed
        yield self.search_with_beams
        yield self.write_a_batch_padded_on_the_left
        yield self.write_several_sequences
        yield self.look_drafts_up_in_the_prompt
        yield self.be_assisted_by_another_model
        yield self.go_on_from_a_returned_cache
        yield self.ask_a_pipeline
        yield self.train_with_Trainer
        yield self.train_an_adapter_of_PEFT

    def encode(self, text: str) -> Any:
        """A text as generate takes it, from the end-of-text token on, as ``fftnet generate`` does."""
        return self.tokenizer(self.tokenizer.bos_token + text, return_tensors="pt")

    def write(self, text: str, **settings: Any) -> Any:
        """The ids of ``generate``, the prompt's included; greedy unless told otherwise."""
        given = {"do_sample": False, "max_new_tokens": 40}
        return self.lm.generate(**self.encode(text), **(given | settings))

    def decode(self, ids: Any) -> str:
        """Ids as text, without end-of-text tokens."""
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def load_with_the_Auto_classes(self) -> str:
        """The Auto classes load model and tokenizer."""

        from transformers import AutoModelForCausalLM, AutoTokenizer

        import fftnet.hf  # noqa: F401, makes the Auto classes know the model

        self.lm = AutoModelForCausalLM.from_pretrained(MODEL).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(MODEL)
        return f"{type(self.lm).__name__}, {self.lm.num_parameters():,} parameters"

    def write_greedily(self) -> str:
        """Greedy text is that of fftnet.generate."""

        import fftnet as package
        from fftnet.api.generate import SamplingConfig

        written = self.decode(self.write(PROMPT)[0])
        model, tokenizer = package.load(MODEL, device="cpu")
        config = SamplingConfig(temperature=0, max_new_tokens=40)
        (own,) = package.generate(model, [PROMPT], config, tokenizer=tokenizer).texts
        promise(written == PROMPT + own, f"{written!r}, and fftnet.generate writes {own!r}")
        return f"{written!r}, as fftnet.generate does"

    def sample_with_a_seed(self) -> str:
        """Sampling repeats itself with the seed."""

        import torch

        texts = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            texts.append(self.decode(self.write(PROMPT, do_sample=True, temperature=0.8, top_p=0.95)[0]))
        promise(texts[0] == texts[1] != texts[2], f"seeds 1, 1, 2 gave {texts}")
        return f"{texts[0]!r}"

    def search_with_beams(self) -> str:
        """Beam search finds a text of the score that it tells."""

        import torch

        found = self.write(
            PROMPT, num_beams=4, length_penalty=0.0, return_dict_in_generate=True, output_scores=True
        )
        (ids,) = found.sequences
        with torch.no_grad():
            logits = self.lm(ids[None]).logits[0, :-1]
        start = self.encode(PROMPT).input_ids.shape[1]
        told = logits.log_softmax(dim=-1).gather(1, ids[1:, None])[start - 1 :].sum().item()
        score = found.sequences_scores.item()
        promise(abs(told - score) < 1e-3, f"the best beam scores {score}, one pass over it gives {told}")
        return f"log-probability {score:.3f}, in one pass over the text {told:.3f}"

    def write_a_batch_padded_on_the_left(self) -> str:
        """A batch, padded on the left, writes as its rows do alone."""
        prompts = [PROMPT, "To be, or not to be, that is", "KING."]
        begin = self.tokenizer.bos_token
        batch = self.tokenizer([begin + text for text in prompts], padding=True, return_tensors="pt")
        rows = self.lm.generate(**batch, do_sample=False, max_new_tokens=40)
        alone = [self.decode(self.write(text)[0]) for text in prompts]
        promise([self.decode(row) for row in rows] == alone, "rows of the batch differ from those alone")
        return f"{len(rows)} rows of unequal prompts, each as alone"

    def write_several_sequences(self) -> str:
        """num_return_sequences gives different texts."""
        rows = self.write(PROMPT, do_sample=True, num_return_sequences=3)
        promise(len({self.decode(row) for row in rows}) == 3, "sequences repeat each other")
        return f"{len(rows)} different texts"

    def look_drafts_up_in_the_prompt(self) -> str:
        """Prompt lookup leaves the greedy text as it is."""
        prompt = f"{PROMPT}\n\nJULIET.\n\n{PROMPT}\n\nJULIET.\n\n"
        promise(self.equal_to_greedy(prompt, prompt_lookup_num_tokens=6), "it changes the text")
        return "prompt_lookup_num_tokens=6 gives the greedy text"

    def be_assisted_by_another_model(self) -> str:
        """Assisted decoding leaves the greedy text as it is."""

        import torch

        from fftnet.hf import FFTNetConfig, FFTNetForCausalLM

        torch.manual_seed(0)
        config = FFTNetConfig(vocab_size=self.lm.config.vocab_size, d_model=16, num_layers=1)
        # One that is mostly right, and one that is never: both leave the text as it is.
        for assistant in (self.lm, FFTNetForCausalLM(config).eval()):
            assistant.generation_config.eos_token_id = self.tokenizer.eos_token_id
            promise(self.equal_to_greedy(PROMPT, assistant_model=assistant), "an assistant changes the text")
        return "a good and a random assistant give the greedy text"

    def equal_to_greedy(self, prompt: str, **settings: Any) -> bool:
        """Whether so many more settings leave the greedy ids as they are."""
        return self.write(prompt, **settings).tolist() == self.write(prompt).tolist()

    def go_on_from_a_returned_cache(self) -> str:
        """A returned cache is gone on from, and forked."""

        import torch

        from fftnet.hf.cache import CACHE_NAME

        first = self.write(PROMPT, max_new_tokens=20, return_dict_in_generate=True)
        cache = first[CACHE_NAME]
        fork = self.tokenizer("\n\nJULIET.", return_tensors="pt").input_ids
        asked = torch.cat([first.sequences, fork], dim=1)
        settings = {"do_sample": False, "max_new_tokens": 20}
        two = [self.lm.generate(asked, **settings, **{CACHE_NAME: cache.copy()}) for _ in range(2)]
        promise(two[0].equal(two[1]), "a fork changes what it was copied from")
        promise(two[0].equal(self.lm.generate(asked, **settings)), "it differs from reading all again")
        onward = self.lm.generate(first.sequences, **settings, **{CACHE_NAME: cache})
        promise(onward.equal(self.write(PROMPT)), "two halves are not the whole")
        return "two forks and a continuation, all as if the text were read again"

    def ask_a_pipeline(self) -> str:
        """A pipeline writes the greedy text."""

        from transformers import pipeline

        writer: Any = pipeline("text-generation", model=MODEL, device="cpu")
        (answer,) = writer(self.tokenizer.bos_token + PROMPT, max_new_tokens=40, do_sample=False)
        expected = self.tokenizer.decode(self.write(PROMPT)[0])
        promise(answer["generated_text"] in (expected, self.decode(self.write(PROMPT)[0])), f"{answer}")
        return "text-generation gives the greedy text"

    def trainer(self, model: Any) -> tuple[float, float]:
        """The losses of the first and the last three of some steps on Python's own documentation."""
        from pydoc_data.topics import topics

        from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments

        self.tokenizer.padding_side = "right"
        rows: Any = [self.tokenizer(text[:200]) for text in topics.values()]
        arguments = TrainingArguments(
            "run",
            max_steps=12,
            learning_rate=3e-3,
            logging_steps=1,
            report_to=[],
            use_cpu=True,
            save_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        collator = DataCollatorForLanguageModeling(self.tokenizer, mlm=False)
        trainer = Trainer(model, arguments, data_collator=collator, train_dataset=rows)
        with contextlib.redirect_stdout(io.StringIO()):
            trainer.train()
        self.tokenizer.padding_side = "left"
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        before, after = sum(losses[:3]) / 3, sum(losses[-3:]) / 3
        promise(after < before, f"the loss went from {before:.3f} to {after:.3f}")
        return before, after

    def train_with_Trainer(self) -> str:
        """Trainer trains, and fftnet.load reads what it saved."""

        import torch
        from transformers import AutoModelForCausalLM

        import fftnet as package

        model = AutoModelForCausalLM.from_pretrained(MODEL)
        before, after = self.trainer(model)
        model.save_pretrained("trained")
        self.tokenizer.save_pretrained("trained")
        native, _ = package.load("trained", device="cpu")
        ids = self.encode(PROMPT).input_ids
        with torch.no_grad():
            torch.testing.assert_close(native(ids), model.eval()(ids).logits)
        return f"loss {before:.3f} to {after:.3f} in 12 steps; fftnet.load reads what it saved"

    def train_an_adapter_of_PEFT(self) -> str:
        """A LoRA adapter of PEFT trains, and merges."""

        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        # PEFT still asks by the old name.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        base = AutoModelForCausalLM.from_pretrained(MODEL)
        config = LoraConfig(r=4, target_modules=["project_in", "project_out"], task_type="CAUSAL_LM")
        model = get_peft_model(base, config)
        before, after = self.trainer(model)
        ids = self.encode(PROMPT).input_ids
        with torch.no_grad():
            adapted = model.eval()(ids).logits
            merged = model.merge_and_unload()(ids).logits
        torch.testing.assert_close(merged, adapted, rtol=1e-4, atol=1e-4)
        return f"loss {before:.3f} to {after:.3f}; merged it computes the same"
