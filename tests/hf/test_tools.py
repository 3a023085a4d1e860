"""Trainer, pipelines, LoRA and offloading of Transformers and PEFT; the code of docs/transformers.md."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hf_models import both, write
from models import VOCAB, tokens
from torch import Tensor
from torch.nn import functional as F

from fftnet import FFTNet, generate, load_tokenizer
from fftnet.api.generate import SamplingConfig
from fftnet.hf import FFTNetConfig, FFTNetForCausalLM, FFTNetForMaskedLM, FFTNetForSequenceClassification
from fftnet.hf.cache import CACHE_NAME

TEXT = "the for statement is used to iterate over the elements of a sequence. " * 4
RECOMPUTING = next(
    name
    for name in ("activation_checkpointing", "gradient_checkpointing")
    if name in transformers.TrainingArguments.__dataclass_fields__
)
"""Name of activation checkpointing in this version."""
SIZES: dict[str, Any] = {"vocab_size": 257, "d_model": 16, "num_layers": 2}


def rows(count: int, length: int = 12) -> list[dict[str, Tensor]]:
    """Return pieces of one text, of three lengths."""
    ids = load_tokenizer("bytes").encode(TEXT)
    pieces = [torch.tensor(ids[start : start + length - 4 * (start % 3)]) for start in range(count)]
    return [{"input_ids": piece} for piece in pieces]


def train(model: Any, data: Any, folder: Path, steps: int = 4, **settings: Any) -> list[float]:
    """Return the losses of some steps, logged one by one."""
    tokenizer = tokenizer_of(folder)
    mlm = isinstance(model, FFTNetForMaskedLM)
    collator: Any = transformers.DataCollatorForLanguageModeling(tokenizer, mlm=mlm)
    if "labels" in data[0]:
        collator = transformers.DataCollatorWithPadding(tokenizer)
    given = {"per_device_train_batch_size": 4, "learning_rate": 1e-2, "lr_scheduler_type": "constant"}
    arguments = transformers.TrainingArguments(
        str(folder),
        max_steps=steps,
        logging_steps=1,
        train_sampling_strategy="sequential",
        report_to=[],
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **(given | settings),
    )
    trainer = transformers.Trainer(model, arguments, data_collator=collator, train_dataset=data)
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def tokenizer_of(folder: Path) -> Any:
    load_tokenizer("bytes").save(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"mask_token": "<|mask|>", "pad_token": "<|pad|>"})
    # Behind a text: of padding on the left the library has the last predict the first token.
    tokenizer.padding_side = "right"
    return tokenizer


def fresh(kind: Any, **fields: Any) -> Any:
    torch.manual_seed(0)
    return kind(FFTNetConfig(**{**SIZES, "vocab_size": 259, **fields}))


def test_the_trainer_trains_as_a_plain_loop_over_the_native_model_does(tmp_path: Path) -> None:
    data = rows(16)
    losses = train(fresh(FFTNetForCausalLM), data, tmp_path)
    model = fresh(FFTNetForCausalLM)
    native = FFTNet(model.config.native())
    native.load_state_dict(model.model.state_dict())
    optimizer = torch.optim.AdamW(native.parameters(), lr=1e-2, weight_decay=0.0)
    plain = []
    for start in range(0, 16, 4):
        part = [row["input_ids"] for row in data[start : start + 4]]
        ids = torch.stack([F.pad(row, (0, 12 - len(row)), value=258) for row in part])
        targets = ids[:, 1:].masked_fill(ids[:, 1:] == 258, -100)
        logits = native(ids, ids != 258)[:, :-1]
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(native.parameters(), 1.0)
        optimizer.step()
        plain.append(loss.item())
    assert losses == pytest.approx(plain, rel=1e-3)
    assert losses[0] == pytest.approx(plain[0], rel=1e-5)
    assert losses[-1] < losses[0] - 0.2


def test_accumulation_and_checkpointing_change_no_loss(tmp_path: Path) -> None:
    data = rows(16)
    # Adam would turn a rounding difference of a small gradient into a step.
    plain = {"optim": "sgd", "learning_rate": 1.0}
    halves = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    whole = train(fresh(FFTNetForCausalLM), data, tmp_path, **plain)
    parts = train(fresh(FFTNetForCausalLM), data, tmp_path, **plain, **halves)
    # Rows are of unequal lengths: a mean of the halves' means would be another number.
    assert whole[-1] < whole[0] - 0.1
    assert parts == pytest.approx(whole, rel=1e-5)
    calls: list[str] = []
    model = fresh(FFTNetForCausalLM)
    model.model.backbone.layers[0].feed_forward.register_forward_pre_hook(lambda *_: calls.append("read"))
    again = train(model, data, tmp_path, **{RECOMPUTING: True}, **plain)
    assert again == pytest.approx(whole, rel=1e-5)
    assert len(calls) == 8, "the layer was not read again in the backward pass"


def test_bf16_and_other_objectives_learn(tmp_path: Path) -> None:
    labelled = [row | {"labels": torch.tensor(index % 3)} for index, row in enumerate(rows(16))]
    for model, data, settings in (
        (fresh(FFTNetForCausalLM), rows(16), {"bf16": True}),
        (fresh(FFTNetForMaskedLM, causal=False), rows(16), {}),
        (fresh(FFTNetForSequenceClassification, num_labels=3, pad_token_id=258), labelled, {}),
        (fresh(FFTNetForSequenceClassification, num_labels=3, causal=False), labelled, {}),
    ):
        losses = train(model, data, tmp_path, steps=12, **settings)
        assert sum(losses[-3:]) < 0.95 * sum(losses[:3])


def test_a_class_does_not_depend_on_padding(tmp_path: Path) -> None:
    for causal in (True, False):
        model = fresh(FFTNetForSequenceClassification, causal=causal, pad_token_id=258).double().eval()
        row = rows(1)[0]["input_ids"]
        expected = model(row[None]).logits
        for left, right in ((3, 0), (0, 2), (1, 1)):
            padded = F.pad(row, (left, right), value=258)[None]
            torch.testing.assert_close(model(padded).logits, expected)
            torch.testing.assert_close(model(padded, padded != 258).logits, expected)
            wrong = model(padded, torch.ones_like(padded)).logits
            assert not torch.allclose(wrong, expected)


def test_the_pipeline_writes(tmp_path: Path) -> None:
    native, _ = both(tmp_path, torch.float32, vocab_size=257)
    tokenizer = load_tokenizer("bytes")
    tokenizer.save(tmp_path)
    writer = transformers.pipeline("text-generation", model=str(tmp_path), device="cpu")
    prompts = ["the for", "a statement is"]
    config = SamplingConfig(max_new_tokens=6, temperature=0)
    expected = generate(native, [tokenizer.encode(text) for text in prompts], config, stop=256).tokens
    written = writer(prompts, batch_size=2, max_new_tokens=6, do_sample=False, return_tensors=True)
    for (answer,), prompt, tail in zip(written, prompts, expected, strict=True):
        ids = [number for number in answer["generated_token_ids"] if number != 256]
        assert ids == tokenizer.encode(prompt) + tail
    text = writer(prompts[0], max_new_tokens=6, do_sample=False)[0]["generated_text"]
    assert text.startswith(prompts[0])


def test_the_masked_pipeline_fills_in_with_the_model_s_last_id(tmp_path: Path) -> None:
    native, _ = both(tmp_path, torch.float32, vocab_size=258, causal=False)
    load_tokenizer("bytes").save(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.add_special_tokens({"mask_token": "<|mask|>"})
    assert tokenizer.mask_token_id == 257
    fill = transformers.pipeline("fill-mask", model=str(tmp_path), tokenizer=tokenizer, device="cpu", top_k=1)
    best = fill("ab<|mask|>d")[0]
    with torch.no_grad():
        logits = native(torch.tensor([[97, 98, 257, 100]]))[0, 2]
    assert best["token"] == int(logits.argmax())
    assert best["score"] == pytest.approx(float(logits.softmax(0).max()), rel=1e-5)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("targets", [["project_in", "project_out"], "all-linear"], ids=str)
def test_lora_trains_saves_and_merges(targets: Any, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="pip install peft")
    base = fresh(FFTNetForCausalLM)
    base.save_pretrained(tmp_path / "base")
    config = peft.LoraConfig(r=2, target_modules=targets, task_type="CAUSAL_LM", init_lora_weights=True)
    model = peft.get_peft_model(base, config)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    losses = train(model, rows(16), tmp_path, steps=6, learning_rate=5e-2)
    assert losses[-1] < losses[0]
    moved = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert moved
    assert all("lora" in key for key in moved)
    model.eval()
    text = tokens(2, 9)
    expected = model(text).logits
    model.save_pretrained(tmp_path / "adapter")
    plain = FFTNetForCausalLM.from_pretrained(tmp_path / "base")
    again = peft.PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()
    torch.testing.assert_close(again(text).logits, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(write(again, text, max_new_tokens=4), write(model, text, max_new_tokens=4))
    merged = again.merge_and_unload()
    torch.testing.assert_close(merged(text).logits, expected, rtol=1e-4, atol=1e-4)
    merged.save_pretrained(tmp_path / "merged")
    native = FFTNet.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(native(text), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:Current model requires")
@pytest.mark.parametrize("mixers", [(), ("delta_spectral", "attention")], ids=str)
def test_layers_on_the_disk_write_the_same(mixers: tuple[str, ...], tmp_path: Path) -> None:
    _, model = both(tmp_path, torch.float32, mixers=mixers)
    places = {"model.embedding": "cpu", "lm_head": "cpu", "model.backbone.dropout": "cpu"}
    places |= {"model.backbone.norm": "cpu", "model.backbone.layers": "disk"}
    offloaded = FFTNetForCausalLM.from_pretrained(
        tmp_path, device_map=places, offload_folder=tmp_path / "offload"
    ).eval()
    assert all(parameter.is_meta for parameter in offloaded.model.backbone.layers.parameters())
    text = tokens(2, 7)
    for settings in ({}, {"num_beams": 2}):
        expected = write(model, text, max_new_tokens=6, **settings)
        assert torch.equal(write(offloaded, text, max_new_tokens=6, **settings), expected)
    with torch.no_grad():
        torch.testing.assert_close(offloaded(text).logits, model(text).logits, rtol=1e-5, atol=1e-5)
    assert offloaded(text).get(CACHE_NAME) is not None


def test_a_vocabulary_grows(tmp_path: Path) -> None:
    native, model = both(tmp_path, torch.float32)
    model.resize_token_embeddings(VOCAB + 3)
    model.save_pretrained(tmp_path / "grown")
    again = FFTNet.from_pretrained(tmp_path / "grown")
    assert again.config.vocab_size == VOCAB + 3
    torch.testing.assert_close(again(tokens(2, 5))[..., :VOCAB], native(tokens(2, 5)))


PAGE = Path(__file__).resolve().parents[2] / "docs" / "transformers.md"


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_the_blocks_of_the_page_run_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 5
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert (tmp_path / "from_transformers" / "model.safetensors").is_file()
