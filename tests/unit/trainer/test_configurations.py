"""ZeRO's named configurations, and one training that asks for much at once."""

import json
from pathlib import Path

import pytest

from shared.context import LocalContext
from shared.contracts import EarlyStop, LoraRecipe, Module, Zero
from shared.schema import Label, Origin, Vote, write_jsonl
from tests.unit.trainer.conftest import RECIPE, write_part
from workers.trainer import files, zero
from workers.trainer.train import train


@pytest.mark.parametrize(
    ("name", "stage", "host"),
    [
        ("zero0", 0, set()), ("zero1", 1, set()), ("zero2", 2, set()), ("zero3", 3, set()),
        ("zero1-offload", 1, {"offload_optimizer"}), ("zero2-offload", 2, {"offload_optimizer"}),
        ("zero3-offload", 3, {"offload_optimizer", "offload_param"}),
    ],
)  # fmt: skip
def test_a_name_says_stage_and_what_lies_in_the_hosts_memory(name: Zero, stage: int, host: set[str]) -> None:
    config = zero.config(RECIPE.model_copy(update={"zero": name}), cuda=True)
    found = config["zero_optimization"]
    assert found["stage"] == stage
    assert {key for key in found if key.startswith("offload")} == host
    assert all(found[key] == {"device": "cpu", "pin_memory": True} for key in host)
    assert config["zero_force_ds_cpu_optimizer"] is False  # torch's AdamW has a kernel for it


def test_offloaded_adapters_learn_letters_and_words_until_validation_ends_it(
    base: Path, validating: Path, tmp_path: Path
) -> None:
    """ZeRO-3 with offload, LoRA on some layers, parts with their own rates, checkpointing, words, patience."""
    (tmp_path / "rows").mkdir()
    rows = write_part(tmp_path / "rows", [Origin(answer="teacher", teacher="t")] * 8, first=0)
    votes = [Vote(prompt="p", round=1, choice=n % 4, reasoning="One colour all over.") for n in range(8)]
    labels = [
        Label(question=f"q{n}", status="accepted", answer=n % 4, reason="", agreement=1.0, votes=(vote,))
        for n, vote in enumerate(votes)
    ]
    write_jsonl(rows / "labels.jsonl", labels)
    recipe = RECIPE.model_copy(
        update={
            "zero": "zero3-offload", "gradient_checkpointing": True, "loss_on": "reasoning", "learning_rate": 1e-9,
            "lora": LoraRecipe(rank=4, alpha=8, dropout=0.0, targets=("q_proj", "v_proj", "linear_fc1")),
            "modules": {"vision": Module(train=False), "projector": Module(learning_rate=1e-9)},
            "early_stop": EarlyStop(every_epochs=0.5, patience=2), "epochs": 8,
        }
    )  # fmt: skip
    out = tmp_path / "out"
    out.mkdir()
    facts = train(
        {"model": [base], "data": [rows], "validation": [validating]}, recipe, out, LocalContext(tmp_path / "s")
    )
    assert (facts["steps"], facts["stopped_early"]) == (3, True)  # nothing moves at that rate, so nothing gains
    made = json.loads((out / "card.json").read_text())
    assert made["training"]["reasoning"] == {
        "rows_with_words": 8, "rows_on_the_answer_alone": 0, "reasonings": 8, "reasonings_cut": 0
    }  # fmt: skip
    assert made["validation"]["rows"] == 5
    assert files.same_tensors(base, out) == made["training"]["tensors"]
    assert {path.name for path in out.iterdir()} >= {"README.md", "curves.svg", "runs", "card.json"}
