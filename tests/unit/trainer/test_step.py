"""The GPU benchmark's own path, with a tiny model on a CPU: what it measures is the trainer's code as it stands."""

from pathlib import Path

from benchmarks.parts import clips
from benchmarks.training_gpu import Case, line


def test_a_case_goes_through_the_trainer_and_reports_its_steps(tmp_path: Path) -> None:
    rows = clips.write(tmp_path / "rows")
    case = Case("tiny-lora-20", rows, tmp_path / "work", steps=4)
    found = case.result()
    assert "failed" not in found, found["failed"]
    assert (found["visual_tokens"], found["temporal_patches"]) == (8 * 6 * 3, 8)  # 720 by 1280 in at most 20 cells
    assert (found["step_seconds"]["n"], len(found["losses"])) == (2, 4)
    assert found["trained_parameters"] < found["parameters"]
    assert line(found).startswith("tiny-lora-20")
