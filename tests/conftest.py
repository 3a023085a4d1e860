"""Shared fixtures."""

import os
import signal
import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

import pytest
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from demo_pages import Served

LONGEST = (
    "test_faults.py",
    "test_processes.py",
    "test_cli.py",
    "test_triton.py",
    "test_onnx.py",
    "test_sources.py",
    "test_inspect_command.py",
    "test_classification_day.py",
    "test_images_command.py",
    "test_extending.py",
    "test_benchmarks.py",
    "test_soundness.py",
)

Module = TypeVar("Module", bound=nn.Module)


def pytest_configure() -> None:
    """Give each test process one thread, because threads of several processes wait for each other.

    Processes started in the background ignore Ctrl-C, and so would their children: restore it.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the slowest files first, so that test processes end at about the same time."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    yield
    torch.use_deterministic_algorithms(False)
    assert torch.get_num_threads() == threads, "a test changed the number of threads"


def randomise(module: Module, scale: float = 0.3) -> Module:
    """Add noise to every weight in float64, so that no filter is constant and no bias is zero."""
    module.double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * scale)
    return module


def assert_same(actual: Tensor, expected: Tensor, leaves: Iterable[Tensor], tolerance: float = 1e-9) -> None:
    """Compare two results, and ten times less strictly their gradients for one random upstream gradient."""
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)
    inputs, upstream = list(leaves), torch.randn_like(expected)
    grads = [torch.autograd.grad(y, inputs, upstream, materialize_grads=True) for y in (actual, expected)]
    torch.testing.assert_close(*grads, rtol=10 * tolerance, atol=10 * tolerance)


@pytest.fixture(scope="session")
def served_demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Served"]:
    """Serve the page of a small model with fftnet demo."""
    # It takes `randomise` from here.
    from demo_pages import serving

    with serving(tmp_path_factory.mktemp("demo")) as served:
        yield served
