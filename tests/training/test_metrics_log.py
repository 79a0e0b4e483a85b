from pathlib import Path

from training.metrics_log import MetricsLog


def test_metrics_come_back_by_step(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    assert log.read() == {}
    log.append(0, {"val_loss": 2.0})
    log.append(1, {"loss": 1.5, "grad_norm": 0.1})
    assert log.read() == {0: {"val_loss": 2.0}, 1: {"loss": 1.5, "grad_norm": 0.1}}


def test_a_line_that_a_kill_cut_off_does_not_count(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append(1, {"loss": 1.5})
    with log.path.open("a") as file:
        file.write('{"step": 2, "lo')
    assert list(log.read()) == [1]


def test_a_resumed_run_forgets_what_its_checkpoint_does_not_know(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for step in range(5):
        log.append(step, {"loss": float(step)})
    log.truncate(2)
    log.append(3, {"loss": 30.0})
    assert log.read() == {0: {"loss": 0.0}, 1: {"loss": 1.0}, 2: {"loss": 2.0}, 3: {"loss": 30.0}}
    log.truncate(0)
    assert log.read() == {}


def test_a_follower_gets_each_line_once_and_starts_over_after_a_rewrite(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    assert log.read_from(0) == ({}, 0)
    log.append(1, {"loss": 1.0})
    first, offset = log.read_from(0)
    log.append(2, {"loss": 2.0})
    second, offset = log.read_from(offset)
    assert (list(first), list(second)) == ([1], [2])
    log.truncate(1)
    assert list(log.read_from(offset)[0]) == [1]
