"""The page in Chromium writes and shows what Python computes from the same files."""

import json
import shutil
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from demo_pages import Served

from fftnet import FFTNet, load_tokenizer
from fftnet.data.encodings import BYTES, END_OF_TEXT, Definition, define
from fftnet.data.tokenizer_json import LIBRARY_FILE, library_files
from fftnet.demo.runtime_files import is_cached
from fftnet.export.runtime import OnnxWriter
from fftnet.utils.tokenizer import Tokenizer

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium"),
    pytest.mark.skipif(
        not is_cached(), reason="the files of onnxruntime-web are not in the cache: run fftnet demo once"
    ),
]
PROMPT = "Ein Satz, à propos 🙂"
# Like cl100k's pattern, with everything that JavaScript lacks.
PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|"
    r"\s*[\r\n]|\s+(?!\S)|\s"
)
TEXTS = [
    "",
    "It isn't so; we'LL see.\n\n  Two  spaces,\ttabs \r\n12345 and ½",
    "naïve façade, Ελληνικά, 漢字かな, 🙂🙃, e\u0301, \u0085\ufeff\u00a0x",
    "<|endoftext|> is text here",
    "trailing   ",
]
CORPUS = [
    "the theme of the thesis is that there is no other thing than the other thing, isn't it? 123 123 "
] * 20


class Opened(NamedTuple):
    """A page in the browser, and its model in Python."""

    page: Any
    model: FFTNet
    writer: OnnxWriter
    tokenizer: Tokenizer
    url: str
    wrong: list[str]


@pytest.fixture(scope="module")
def opened(served_demo: Served) -> Iterator[Opened]:
    model = FFTNet.from_pretrained(served_demo.folder / "own")
    writer = OnnxWriter(served_demo.folder / "page" / "model", threads=1)
    url = served_demo.url
    wrong: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="light")
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: request.url.startswith(url) or wrong.append(request.url))
        page.goto(url)
        page.wait_for_selector("#write:not([disabled])")
        yield Opened(page, model, writer, load_tokenizer("bytes"), url, wrong)
        browser.close()


def written(opened: Opened, prompt: str, count: int) -> tuple[list[int], torch.Tensor]:
    """Continue a prompt greedily in Python; return all ids and the last filters."""
    writer = opened.writer
    ids = [opened.tokenizer.eot, *opened.tokenizer.encode(prompt)]
    logits, before = writer.prefill(torch.tensor([ids]))
    state = before
    for _ in range(count):
        ids.append(int(logits.argmax()))
        before = state
        logits, state = writer.step(torch.tensor(ids[-1:]), state)
    (filters,) = writer._step.run(["filters"], writer._arrays(before, 1) | {"token": np.array(ids[-1:])})
    return ids, torch.from_numpy(filters)


def begin(opened: Opened, prompt: str, count: int) -> list[int]:
    """Continue a prompt greedily in the page; return all ids."""
    page = opened.page
    page.fill("#prompt", prompt)
    page.focus("#temperature")
    page.keyboard.press("Home")
    page.evaluate("(count) => demo.writer.begin(count)", count)
    return page.evaluate("demo.writer.active.ids")


def test_the_page_writes_and_shows_what_python_computes(opened: Opened) -> None:
    page = opened.page
    found = begin(opened, PROMPT, 200)
    ids, filters = written(opened, PROMPT, 200)
    assert len(set(ids)) > 20
    assert found == ids
    shown = page.evaluate("document.getElementById('text').textContent")
    # An unfinished character is not shown.
    assert opened.tokenizer.decode(ids[1:]).startswith(shown)
    assert len(shown) > len(PROMPT)
    assert page.inner_text("#bytes").replace(",", "") == str(opened.writer.description["state_bytes"])
    assert page.inner_text("#bytes-note") == "constant"
    spectra = page.evaluate(
        "demo.model.spectra(demo.writer.active.now.state).map((one) => ({...one, values: [...one.values]}))"
    )
    with torch.no_grad():
        _, state = opened.model.prefill(torch.tensor([ids]))
    # (H, 2, F, d) of each layer.
    wanted = [layer.spectrum[0].square().sum(dim=(1, 3)).sqrt().flatten() for layer in state]  # pyright: ignore
    assert [one["layer"] for one in spectra] == [0, 2, 1]
    for one in spectra:
        np.testing.assert_allclose(one["values"], wanted[one["layer"]], rtol=2e-3, atol=1e-5)
    column = page.evaluate("[...demo.writer.view.map.columns.at(-1).values]")
    sizes = opened.writer.description["filters"]["bins"]
    layers = [filters[0, n, :, :bins].flatten() for n, bins in enumerate(sizes)]
    np.testing.assert_allclose(column, torch.cat(layers), rtol=1e-3, atol=1e-5)


def test_a_fork_and_a_roll_back_continue_from_equal_states(opened: Opened) -> None:
    page = opened.page
    found = begin(opened, "Fork", 60)
    assert found == written(opened, "Fork", 60)[0]
    now = "[...demo.writer.active.now.logits]"
    before = page.evaluate(now)
    page.click("#fork")
    page.wait_for_selector("#branches button[aria-pressed=true]:has-text('B')")
    page.click("#one")
    page.wait_for_selector(f"#status:has-text('Paused at position {len(found) + 1}')")
    assert page.evaluate(now) != before
    page.click("[data-count='1']")
    page.wait_for_selector("#status:has-text('Rolled back')")
    assert page.evaluate(now) == before
    page.click("[data-count='10']")
    page.wait_for_selector(f"#status:has-text('to {len(found) - 10},')")
    page.evaluate("demo.writer.go(10)")
    assert page.evaluate("demo.writer.active.ids") == found
    assert page.evaluate(now) == before
    # From here on the page writes new tokens.
    page.evaluate("demo.writer.go(15)")
    assert page.evaluate("demo.writer.active.ids") == written(opened, "Fork", 75)[0]
    page.click("#branches button:has-text('A')")
    page.wait_for_selector("#branches button[aria-pressed=true]:has-text('A')")
    assert page.evaluate("demo.writer.active.ids") == found
    assert page.evaluate(now) == before


def test_it_writes_after_loading_and_pauses_after_500_tokens(opened: Opened) -> None:
    with opened.page.context.browser.new_page() as page:
        # Always the first token of the vocabulary, so that no text ends by chance.
        page.add_init_script("Math.random = () => 0")
        page.goto(opened.url)
        page.wait_for_selector("#status:has-text('Paused')")
        prompt = len(opened.tokenizer.encode("ROMEO.\n")) + 1
        assert page.inner_text("#position") == str(prompt + 100)
        assert page.evaluate("document.getElementById('text-prompt').textContent") == "ROMEO.\n"
        page.click("#pause:has-text('Continue')")
        status = f"Paused at position {prompt + 600}. Continue writes 500 tokens more."
        page.wait_for_selector(f"#status:has-text('{status}')")
        page.click("#write")
        page.wait_for_selector(f"#status:has-text('Paused at position {prompt + 500}.')")
        page.click("text=Read the README")
        page.wait_for_url("**/README.txt")
        assert page.inner_text("body").startswith("# FFTNet")


def test_the_text_is_followed_until_the_reader_scrolls_up(opened: Opened) -> None:
    page = opened.page
    begin(opened, "Follow", 1)
    # A frame may be drawn, and its scroll events sent, before the writer scrolls again.
    script = """async (lines) => {
      const box = document.getElementById("text");
      const frames = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
      for (let n = 0; n < lines; n++) demo.writer.append(10);
      await frames();
      demo.writer.follow();
      await frames();
      return [box.scrollTop, box.scrollHeight - box.clientHeight - box.scrollTop];
    }"""

    def grown(lines: int) -> tuple[float, float]:
        """Add lines; return the pixels above and below the visible part."""
        return tuple(page.evaluate(script, lines))

    # More lines at once than the box can show.
    assert grown(40)[1] < 2
    assert grown(40)[1] < 2
    for width in (700, 1280):
        page.set_viewport_size({"width": width, "height": 900})
        assert grown(0)[1] < 2
    page.hover("#text")
    page.mouse.wheel(0, -60)
    page.wait_for_function("() => !demo.writer.following")
    above, below = grown(0)
    assert 2 < below < 100
    assert grown(5)[0] == above
    page.mouse.wheel(0, 10_000)
    page.wait_for_function("() => demo.writer.following")
    assert grown(40)[1] < 2


def test_byte_pairs_are_those_of_python(opened: Opened) -> None:
    trained = load_tokenizer("bpe", corpus=CORPUS, vocab_size=300)
    gpt2 = define(trained.encoding)
    for definition in (BYTES, gpt2, Definition(PATTERN, gpt2.ranks, {END_OF_TEXT: 299})):
        described = json.loads(library_files("tested", definition)[LIBRARY_FILE])
        script = """async ([described, texts]) => {
          const { Tokenizer } = await import("./tokenizer.js");
          const tokenizer = new Tokenizer(described);
          return texts.map((text) => {
            const ids = tokenizer.encode(text);
            const decoder = tokenizer.stream();
            return [ids, ids.map((id) => decoder.push(id)).join("")];
          });
        }"""
        tiktoken = pytest.importorskip("tiktoken")
        encoding = tiktoken.Encoding(
            "tested",
            pat_str=definition.pattern,
            mergeable_ranks=dict(definition.ranks),
            special_tokens=dict(definition.special_tokens),
        )
        texts = TEXTS + CORPUS[:1]
        for text, (ids, decoded) in zip(texts, opened.page.evaluate(script, [described, texts]), strict=True):
            assert ids == encoding.encode_ordinary(text), (definition.pattern, text)
            assert decoded == text


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"type": "Unigram"}, "it is not a byte-level BPE"),
        ({}, 'its pattern has "?|b)", which JavaScript lacks'),
    ],
)
def test_another_tokenizer_ends_in_a_sentence(opened: Opened, change: dict[str, str], sentence: str) -> None:
    definition = Definition(r"(?<=a)(?|b)", BYTES.ranks, BYTES.special_tokens)
    described = json.loads(library_files("tested", definition)[LIBRARY_FILE])
    described["model"] |= change
    with opened.page.context.browser.new_page() as page:
        page.route("**/tokenizer.json", lambda route: route.fulfill(json=described))
        page.goto(opened.url)
        page.wait_for_selector("#failure:not([hidden])")
        assert page.inner_text("#failure").startswith("This model's tokenizer can't be run in this page: ")
        assert sentence in page.inner_text("#failure")


def test_a_long_text_is_cut_at_its_beginning(opened: Opened) -> None:
    script = """() => {
      for (let n = 0; n < 50000; n++) demo.writer.append(97 + (n % 26));
      const shown = document.getElementById("text").textContent;
      demo.writer.showText();
      return [shown.length, shown.at(-1)];
    }"""
    length, last = opened.page.evaluate(script)
    assert 20_000 <= length <= 40_000
    assert ord(last) == 97 + 49_999 % 26


def test_it_works_by_keyboard(opened: Opened) -> None:
    page = opened.page
    page.focus("#prompt")
    page.fill("#prompt", "Keys")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#status:has-text('Writing')")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "pause"
    page.keyboard.press("Enter")
    page.wait_for_selector("#status:has-text('Paused')")
    last = int(page.inner_text("#position").replace(",", "")) - 1
    page.focus("#filters")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert f"Token {last - 1}," in page.get_attribute("#filters", "aria-valuetext")
    unnamed = """() => [...document.querySelectorAll("button, input, textarea, canvas")].filter((one) => {
      return !(one.labels?.length || one.getAttribute("aria-label") || one.textContent.trim());
    }).map((one) => one.id)"""
    assert page.evaluate(unnamed) == []


def test_it_fits_a_phone_in_the_dark(opened: Opened) -> None:
    look = {"color_scheme": "dark", "is_mobile": True, "has_touch": True}
    with opened.page.context.browser.new_page(viewport={"width": 360, "height": 740}, **look) as page:
        page.on("pageerror", lambda error: opened.wrong.append(str(error)))
        page.goto(opened.url)
        page.wait_for_selector("#write:not([disabled])")
        page.tap("#write")
        page.wait_for_selector("#fork:not([disabled])")
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert dark != opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
        small = """() => [...document.querySelectorAll("button")].filter((one) => {
          const { width, height } = one.getBoundingClientRect();
          return width && (width < 40 || height < 40);
        }).length"""
        assert page.evaluate(small) == 0


def test_nothing_went_wrong_and_nothing_was_asked_of_another_host(opened: Opened) -> None:
    """Runs last: it checks what all tests above have recorded."""
    assert opened.page.evaluate("performance.getEntriesByType('resource').length") > 8
    assert opened.wrong == []
