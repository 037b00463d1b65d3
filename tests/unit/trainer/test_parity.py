"""What training shows the model, as `roadqa verify` is told it."""

import json
import shutil
from math import exp, isclose
from pathlib import Path

import pytest

from shared.errors import InputError
from shared.parity import Contract, Request
from shared.schema import Rows
from shared.video import sample
from shared.vlm.encode import Encoder
from tests.unit.trainer.conftest import RECIPE
from workers.trainer.parity import see

ASKING = Contract(video=RECIPE.video, system_prompt=RECIPE.system_prompt)


def request(model: Path, data: Path) -> Request:
    return Request(model=model, data=data, asking=ASKING, out=data / "unused")


def test_it_is_what_the_encoder_makes_of_a_question_without_its_answer(base: Path, labelled: Path) -> None:
    rows, encoder = Rows([labelled]), Encoder(base)
    found = list(see(request(base, labelled)))
    assert [seen.question for seen in found] == [question.id for question in rows.questions], "unanswered ones too"
    for question, seen in zip(rows.questions, found, strict=True):
        clip = sample(rows.clip_path(question.clip), ASKING.video)
        due = encoder.encode(question, clip, ASKING.system_prompt)
        assert list(seen.token_ids) == due["input_ids"][0].tolist()
        assert list(seen.grid) == due["video_grid_thw"][0].tolist()
        assert "".join(seen.pieces) == encoder.tokenizer.decode(seen.token_ids)
        assert f"<{seen.timestamps[0]:.1f} seconds>" in "".join(seen.pieces)
        assert seen.logprobs is not None
        assert isclose(sum(map(exp, seen.logprobs)), 1, abs_tol=1e-5)


def test_a_quantised_model_is_shown_the_same_and_not_asked(base: Path, labelled: Path, tmp_path: Path) -> None:
    quantised = Path(shutil.copytree(base, tmp_path / "model"))
    config = json.loads((quantised / "config.json").read_text())
    (quantised / "config.json").write_text(json.dumps(config | {"quantization_config": {"format": "pack-quantized"}}))
    with_answers = list(see(request(base, labelled)))
    for one, other in zip(with_answers, see(request(quantised, labelled)), strict=True):
        assert other == one.model_copy(update={"logprobs": None, "precision": None})


def test_weights_that_give_no_numbers_are_told(base: Path, labelled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.trainer.parity._logprobs", lambda *_: [float("nan")] * 4)
    with pytest.raises(InputError, match=r"question q0: the model's log-probabilities are .*nan"):
        list(see(request(base, labelled)))
