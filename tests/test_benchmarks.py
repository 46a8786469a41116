"""The benchmarks at tiny size: that each way to measure measures, not how fast anything is."""

import socket
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.benchmarks import build, communication, end_to_end, run, step, step_gpu
from tests.building import build_here
from trainers.similarity import compare

# Of torch itself, while DeepSpeed imports its compiler for stages above 0.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script_method`")


def test_the_table_of_the_readme_is_of_the_newest_rows():
    assert run.table() in run.README.read_text()


def test_the_page_on_scaling_is_of_the_newest_row():
    rows = [row for name, row in run.newest().items() if name == "communication"]
    assert all(communication.PAGE.read_text() == communication.page(row) for row in rows)


@pytest.mark.parametrize("variant", ["ours", "peer", "chunked"])
def test_each_variant_takes_a_step(variant: str):
    step.VARIANTS[variant]()(step.batch_of(2))


def test_a_batch_that_would_not_fit_is_not_run_and_its_row_says_so():
    found = {many: {"peer": [step.Spent(many, many * step.free_gib(), many)]} for many in (2, 4)}
    spent = step._spent("peer", 8, found)
    assert (spent.seconds, spent.of_examples) == (8, 4)
    assert "does not fit" in step._estimated(spent, 8)


def test_the_peak_of_a_process_is_kept_when_its_memory_is_given_back():
    block = torch.ones(1 << 26)
    high = step.peak_gib()
    del block
    assert step.peak_gib() >= high >= 0.25


@pytest.mark.parametrize("variant", [step_gpu.PEER, "bf16"])
def test_the_step_of_a_gpu_can_be_measured_where_there_is_none(variant: str):
    found = step_gpu.alone(variant, 2, 1, steps=1)
    assert 0 < found["least"] <= found["seconds"] and found["mfu"] > 0


@pytest.fixture(scope="module")
def music(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clips, and the dataset of them."""
    folder = tmp_path_factory.mktemp("end-to-end")
    (folder / "music").mkdir()
    for number in range(3):
        build.write_clip(folder / "music", number)
    shares = ("--valid-share", 0, "--test-share", 0)
    build_here("folder", "--root", folder / "music", "--out", folder / "dataset", "--features", "mel", *shares)
    return folder


@pytest.mark.parametrize("variant", ["ours", "torchcodec"])
def test_steps_are_taken_from_files_and_from_shards(music: Path, variant: str):
    found = step.in_a_process("end_to_end", variant, music, 2, 1, 1)
    assert found["rate"] > 0 and 0 < found["step_share"] <= 1


def test_a_build_has_paid_when_it_is_counted_and_the_rate_is_still_higher():
    found = end_to_end._amortised(100, 50.0, {"ours": 10.0, "torchcodec": 1.0, "librosa": 2.0, "pickled": 9.0})
    assert found["build_pays_after_epochs"] == pytest.approx(50 / 40)
    assert found["ratio_with_the_build"] == pytest.approx(
        {"1": 100 / 60 / 2, "10": 1000 / 150 / 2, "100": 10000 / 1050 / 2}
    )


def test_the_kernel_counts_what_a_socket_sends():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as one:
        other, _ = server.accept()
        with other:
            before = communication.sent_bytes()
            one.sendall(bytes(100_000))
            received = 0
            while received < 100_000:
                received += len(other.recv(65_536))
            assert communication.sent_bytes() - before == 100_000


@pytest.fixture(scope="module")
def traffic() -> communication.Traffic:
    return communication._traffic("debug", 2, 0)


def test_what_a_worker_sends_is_what_its_collectives_mean_and_hardly_more_than_the_least(
    traffic: communication.Traffic,
):
    assert traffic.sent == pytest.approx(traffic.called, rel=0.05)
    assert traffic.least <= traffic.called < 1.1 * traffic.least
    assert traffic.loopback > 0.9 * traffic.sent


def test_the_page_shows_what_was_measured_and_what_follows(traffic: communication.Traffic):
    model = {"parameters": 10**6, "dim": 32, "rows": 16, "flops_per_example": 1e9}
    setting = {"workers": 2, "stage": 0, **vars(traffic)}
    page = communication.page({"date": "today", "machine": "this one", "model": model, "settings": [setting]})
    assert f"| 2 | 0 | {traffic.sent / 1e6:,.2f} |" in page
    assert page.count("one machine, NVLink") == len(communication.BATCHES)


def test_the_arithmetic_of_similarities_is_what_torch_counts():
    pairs = torch.randn(2, 32, 16, requires_grad=True)
    in_place = {torch.ops.aten.addmm_: lambda sums, left, right, **more: 2 * left[0] * left[1] * right[1]}
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        compare(pairs, torch.ones(32), temperature=0.1, block_rows=8).log_negatives.sum().backward()
    expected = communication.similarity_flops(32, 16, world=1)
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.1)  # squares on the diagonal are computed whole
