"""Report of the measurements: the tables of docs/performance.md, and who is fastest in each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.baselines import ATTENTION, BOTH, STEP, TRAIN
from benchmarks.encoders import FNET, OURS_CAUSAL
from benchmarks.measure import OURS
from benchmarks.runtimes import COMPILED, INT8, ONNX
from experiments.tables import joined

Row = Mapping[str, Any]
Results = Mapping[str, Sequence[Row]]
"""Suite to its rows, as JSON."""
MILLISECONDS = "ms"
SPEED = "tokens/s"


@dataclass(frozen=True, kw_only=True)
class Table:
    """Times or speeds of several sides in several cases."""

    title: str
    suite: str
    work: str
    """Kind of work whose rows are shown."""
    sides: Mapping[str, str]
    """Side to its name in the table."""
    unit: str = MILLISECONDS
    head: str = "tokens"
    """Heading of the first column."""
    case: Callable[[Row], str] = lambda row: f"{row['tokens']:,}"
    """Function that returns the name of a row's case."""
    shown: Callable[[Row], bool] = lambda row: row["batch"] == 1
    """Function that returns True for the rows of the table."""
    sides_down: bool = False
    """True: a side a row, a case a column; False: a case a row, a side a column."""

    def values(self, results: Results) -> dict[str, dict[str, float]]:
        """Return case to side to value, in the order of the measurement."""
        found: dict[str, dict[str, float]] = {}
        for row in results.get(self.suite, ()):
            if row["work"] == self.work and row["side"] in self.sides and self.shown(row):
                # Medians; quartiles are in the JSON file.
                seconds = row["seconds"]
                value = seconds * 1e3 if self.unit == MILLISECONDS else row["batch"] / seconds
                found.setdefault(self.case(row), {})[self.sides[row["side"]]] = value
        return found

    def best(self, values: Mapping[str, float]) -> str:
        """Return the name of the fastest side of a case."""
        return (min if self.unit == MILLISECONDS else max)(values, key=lambda name: values[name])

    def cell(self, values: Mapping[str, float], name: str) -> str:
        """Return a value, bold if it is the best of its case."""
        whole = self.unit == SPEED or values[name] >= 100
        text = f"{values[name]:,.0f}" if whole else f"{values[name]:.1f}"
        return f"**{text}**" if name == self.best(values) else text

    def sentence(self, results: Results) -> str:
        """Return the sentence that says which side wins where, and by how much."""
        won: dict[str, list[tuple[str, float]]] = {}
        for case, values in self.values(results).items():
            first = self.best(values)
            # The ratio to the best of the others is the smallest one.
            others = [value for name, value in values.items() if name != first]
            ratios = [max(value / values[first], values[first] / value) for value in others]
            won.setdefault(first, []).append((case, min(ratios, default=1.0)))
        parts = []
        for name, places in won.items():
            where = "everywhere" if len(won) == 1 else f"at {joined([case for case, _ in places])}"
            low, high = (pick(ratio for _, ratio in places) for pick in (min, max))
            span = " to ".join(dict.fromkeys((f"{low:.3g}", f"{high:.3g}")))
            parts.append(f"{name} wins {where}, {span} times as fast as the next")
        return f"{self.title}: {'; '.join(parts)}."

    def markdown(self, results: Results) -> str:
        """Return the table, in which the fastest side of each case is bold."""
        values = self.values(results)
        names = [name for name in self.sides.values() if any(name in found for found in values.values())]
        cells = {
            (case, name): self.cell(found, name)
            for case, found in values.items()
            for name in names
            if name in found
        }
        if self.sides_down:
            head = [self.head, *values]
            rows = [[name, *(cells.get((case, name), "") for case in values)] for name in names]
        else:
            head = [self.head, *(f"{name}, {self.unit}" for name in names)]
            rows = [[case, *(cells.get((case, name), "") for name in names)] for case in values]
        first = "---" if self.sides_down or self.suite == "encoder" else "---:"
        lines = [head, *rows]
        text = [f"| {' | '.join(line)} |" for line in lines]
        return "\n".join([text[0], f"|{first}|{'---:|' * (len(head) - 1)}", *text[1:]])


ENCODERS = {
    OURS: "FFTNet (bidirectional)",
    OURS_CAUSAL: "FFTNet (causal)",
    ATTENTION: "attention",
    FNET: "FNet",
}
TWO_SIDES = {OURS: "FFTNet", ATTENTION: "attention"}
TABLES = (
    Table(
        title="Training step, 4 layers, 4,096 tokens",
        suite="train",
        work=TRAIN,
        sides=TWO_SIDES,
        head="tokens per row",
        shown=lambda row: True,
    ),
    Table(
        title="Decoding of one text, 4 layers",
        suite="write",
        work=STEP,
        sides={OURS: "FFTNet", ATTENTION: "attention with a KV cache"},
        unit=SPEED,
        head="context",
    ),
    Table(title="Causal mixer, forward and backward", suite="mixer", work=BOTH, sides=TWO_SIDES),
    Table(
        title="Runtimes, decoding on one thread, tokens/s",
        suite="runtimes",
        work=STEP,
        sides={
            OURS: "PyTorch",
            COMPILED: "PyTorch, compiled",
            ONNX: "ONNX Runtime",
            INT8: "ONNX Runtime, 8-bit weights",
        },
        unit=SPEED,
        head="runtime",
        case=lambda row: f"width {row['width']}",
        sides_down=True,
    ),
    Table(
        title="Encoder layers, forward and backward",
        suite="encoder",
        work=BOTH,
        sides=ENCODERS,
        head="tokens",
        case=lambda row: f"{row['batch']} × {row['tokens']:,} (width {row['width']})",
        shown=lambda row: True,
    ),
    Table(
        title="Training step of a classifier, 4 layers",
        suite="classifier",
        work=TRAIN,
        sides=ENCODERS,
    ),
)
"""Tables of docs/performance.md that are made from docs/benchmarks.json."""


def text(results: Results, tables: Sequence[Table] = TABLES) -> str:
    """Return all tables whose suites were measured, and what reading a long text takes."""
    parts = []
    for table in tables:
        if table.values(results):
            parts += [table.sentence(results), table.markdown(results)]
    for row in results.get("read", ()):
        parts.append(
            f"Reading {row['tokens']:,} tokens: {row['tokens'] / row['seconds']:,.0f} tokens/s, "
            f"{row['growth_bytes'] / 1e6:.0f} MB, a state of {row['state_bytes']:,} bytes "
            f"({row['state_bytes_at_start']:,} after 64 tokens)."
        )
    return "\n\n".join(parts)
