"""A teacher's words after the letter: whose they are, which are left out, where they are cut."""

from pathlib import Path

import pytest

from shared.prompts import letter
from shared.schema import Label, Origin, Rows, Vote, write_jsonl
from shared.vlm.encode import IGNORED, Encoder
from tests.unit.trainer.conftest import RECIPE, write_part
from workers.trainer.cache import ClipCache
from workers.trainer.data import Examples, following_ids
from workers.trainer.plan import plan
from workers.trainer.reasoning import Reasonings, cut, usable
from workers.trainer.skipped import Skipped

TAUGHT = Origin(answer="teacher", teacher="t")


def vote(choice: int | None, reasoning: str, number: int = 1) -> Vote:
    return Vote(prompt="p", round=number, choice=choice, reasoning=reasoning)


def verdict(*votes: Vote, answer: int | None = 0, question: str = "q500") -> Label:
    status = "flagged" if answer is None else "accepted"
    return Label(question=question, status=status, answer=answer, reason="", agreement=1.0, votes=votes)


def test_words_are_those_of_the_votes_for_the_answer_in_the_accepted_round() -> None:
    votes = (vote(0, "An early word.", 1), vote(0, "The  car\nis red.", 2), vote(1, "It is green.", 2))
    votes += (vote(0, "The car is red.", 2), vote(0, "Nothing else is red.", 2), vote(None, "", 2))
    assert usable(verdict(*votes), 0) == ("The car is red.", "Nothing else is red.")
    assert usable(verdict(*votes, answer=None), None) == ()


@pytest.mark.parametrize(
    "text",
    ["So option B holds.", "Choice 2 is right.", "The answer (C) fits.", "Đáp án A đúng.", "Phương án số 3 đúng.",
     "The first choice is right.", "It ends <|im_end|> here.", "<think>so</think>", "Thus the correct answer is B.",
     "The answer is 2.", "So B is correct.", "2 is the right one", "A and C are wrong.", "Answer: C", "This is (3).",
     "The answer must be **D**.", "Đáp án đúng là B.", "Vì vậy B là đáp án đúng.", "Câu trả lời là số 2."],
)  # fmt: skip
def test_words_that_name_a_choice_by_its_place_or_spell_a_token_are_left_out(text: str) -> None:
    assert usable(verdict(vote(0, text)), 0) == ()
    for plain in ("Two cars wait; a third turns. The answer is plain.", "The answer a driver would give.",
                  "Lane A is closed.", "Xe ở làn B đi thẳng.", "The sign says 50."):  # fmt: skip
        assert usable(verdict(vote(0, plain)), 0) != (), plain


def test_words_are_cut_at_a_sentences_end() -> None:
    def encode(text: str) -> list[int]:
        return list(range(len(text.split())))

    text = "One two three. Four five! Six seven eight nine."
    assert cut(text, encode, 9) == (list(range(9)), False)
    assert cut(text, encode, 8) == (list(range(5)), True)
    assert cut(text, encode, 4) == (list(range(3)), True)
    assert cut(text, encode, 2) == ([0, 1], True)


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three rows by a teacher: with two reasonings, with one that is too long, without any."""
    folder = write_part(tmp_path_factory.mktemp("taught"), [TAUGHT] * 3, first=500)
    long = " ".join(["The whole picture has this colour, and no other is to be seen."] * 9)
    labels = [
        verdict(vote(0, "The picture is red."), vote(0, "Red all over.")),
        verdict(vote(1, long), answer=1, question="q501"),
        verdict(vote(2, "Choice C."), answer=2, question="q502"),
    ]
    write_jsonl(folder / "labels.jsonl", labels)
    return folder


def test_the_letter_comes_first_and_the_words_follow_and_both_are_learnt(
    base: Path, taught: Path, labelled: Path, tmp_path: Path
) -> None:
    recipe = RECIPE.model_copy(update={"loss_on": "reasoning", "reasoning_tokens": 80})
    encoder, chosen = Encoder(base), plan([taught, labelled])
    reasonings = Reasonings([taught, labelled])
    cache, skipped = ClipCache(tmp_path / "frames", recipe.video, 10**9), Skipped(tmp_path / "skipped")
    examples = Examples(chosen, recipe, encoder, cache, 60, skipped, reasonings=reasonings)
    learnt: dict[str, set[str]] = {}
    for position in range(chosen.epoch_rows * 2):
        question, example = examples.question(position), examples[position]
        said = encoder.tokenizer.decode(example["input_ids"][example["labels"] != IGNORED])
        assert question.answer is not None
        assert said.startswith(letter(question.answer))
        assert said.endswith("<|im_end|>")
        first = (example["labels"] != IGNORED).nonzero()[0, 0]
        plain = encoder.prompt_ids(question, cache.get(question.clip, chosen.rows.clip_path(question.clip)), "short")
        assert example["input_ids"][:first].tolist() == plain  # asked as the engines are asked
        if question.origin == TAUGHT:
            learnt.setdefault(question.id, set()).add(said[1:].removesuffix("<|im_end|>"))
        else:
            assert len(said) == len("A<|im_end|>")
    assert learnt["q500"] == {"\nThe picture is red.", "\nRed all over."}  # one an epoch
    (short,) = learnt["q501"]
    assert short.endswith("to be seen.")
    assert learnt["q502"] == {""}
    facts = reasonings.facts(chosen.questions, lambda text: following_ids(encoder, text), 80)
    other = chosen.questions[0].model_copy(update={"answer": 3})  # a person says that the teacher was wrong
    assert reasonings.of(chosen.questions[0], 0) == "The picture is red."
    assert reasonings.of(other, 0) is None
    rows = len(Rows([labelled]).questions) - 1
    assert facts == {
        "rows_with_words": 2, "rows_on_the_answer_alone": 1 + rows, "reasonings": 3, "reasonings_cut": 1
    }  # fmt: skip
