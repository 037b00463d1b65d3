"""The pipeline file and its graph: what equal work is, and what a user is told of a wrong file."""

import pytest

from services.cli.runs import presets, read_pipeline
from shared.errors import UsageError
from shared.pipeline import Made, Node, Plan, make_plan, parse_pipeline
from shared.run import expand

GOOD = """
name: p
data: {train: t, test: e}
models: {base: b}
steps:
  labels: {stage: label, data: test}
  tuned: {stage: train, model: base, data: [train, labels]}
  small: {stage: quantize, model: tuned, scheme: nvfp4a16}
report:
  test: test
  rows:
    baseline: {model: base, system_prompt: none}
    tuned: {parent: baseline}
    small: {parent: tuned, engine: transformers}
"""
DATASETS = {"train": ("a" * 64, "b" * 64), "test": ("c" * 64,)}
MODELS = {"base": "d" * 64}


def plan(text: str = GOOD) -> Plan:
    return make_plan(parse_pipeline(text, "p.yaml"), DATASETS, MODELS)


def test_nodes_stand_in_topological_order() -> None:
    seen: set[str] = set()
    for node in plan().nodes:
        assert {s.node for sources in node.inputs.values() for s in sources if s.node} <= seen
        seen.add(node.name)


def test_a_row_on_another_engine_is_compared_with_its_parent_on_that_engine() -> None:
    made = plan()
    small = next(row for row in made.rows if row.name == "small")
    nodes = {node.name: node for node in made.nodes}
    (parent,) = nodes[small.evaluate].inputs["parent"]
    assert parent.node is not None
    assert nodes[parent.node].recipe["engine"] == "transformers"
    assert nodes[parent.node].inputs["model"][0].node == "tuned"
    assert small.parent_evaluate is not None


def test_a_row_is_compared_with_others_than_its_parent_on_its_own_engine() -> None:
    made = plan(GOOD.replace("engine: transformers}", "engine: transformers, against: [baseline]}"))
    small = next(row for row in made.rows if row.name == "small")
    nodes = {node.name: node for node in made.nodes}
    assert list(small.against) == ["baseline"]
    beside, usual = nodes[small.against["baseline"]], nodes[small.evaluate]
    (other,) = beside.inputs["parent"]
    assert other.node is not None
    assert nodes[other.node].recipe["engine"] == "transformers"
    assert nodes[other.node].recipe["system_prompt"] == "none"
    assert usual.inputs["model"], "a verdict on the quantised model"
    assert beside.inputs | {"parent": ()} == {n: s for n, s in usual.inputs.items() if n != "model"} | {"parent": ()}
    assert plan().rows[2].against == {}


def test_a_comparison_gives_no_verdict_even_where_the_same_rows_are_parent_and_child() -> None:
    again = "    again: {model: small, engine: transformers, against: [tuned]}\n"
    made = plan(GOOD.replace("    small: {parent", f"{again}    small: {{parent"))
    nodes = {node.name: node for node in made.nodes}
    _, _, other, small = made.rows
    assert "model" not in nodes[other.against["tuned"]].inputs
    assert "model" in nodes[small.evaluate].inputs


def test_an_engine_without_a_kernel_gives_way_and_so_does_the_parents() -> None:
    auto = parse_pipeline(GOOD.replace(", engine: transformers", ""), "p")
    rows = {row.name: row for row in make_plan(auto, DATASETS, MODELS, {}, {"nvfp4a16"}).rows}
    assert [row.engine for row in rows.values()] == ["vllm", "vllm", "transformers"]
    assert rows["small"].parent_evaluate is not None
    assert {row.engine for row in make_plan(auto, DATASETS, MODELS, {}, {"awq"}).rows} == {"vllm"}
    wanted = parse_pipeline(GOOD.replace("engine: transformers", "engine: vllm"), "p")
    assert make_plan(wanted, DATASETS, MODELS).rows
    with pytest.raises(UsageError, match=r"report.rows.small.engine: vLLM has no kernel here for nvfp4a16"):
        make_plan(wanted, DATASETS, MODELS, {}, {"nvfp4a16"})
    other = parse_pipeline(GOOD.replace("{parent: baseline}", "{parent: baseline, against: [small]}"), "p")
    with pytest.raises(UsageError, match=r"report.rows.tuned.against: vLLM.* of 'small' .* transformers` in this row"):
        make_plan(other, DATASETS, MODELS, {}, {"nvfp4a16"})
    earlier = parse_pipeline("{name: p, data: {test: e}, models: {m: b}, submission: {data: test, model: m}}", "p")
    (node,) = make_plan(earlier, DATASETS, {"m": "d" * 64}, {"d" * 64: Made(scheme="awq")}, {"awq"}).nodes
    assert node.recipe["engine"] == "transformers"


def test_a_mapping_that_is_merged_may_overrule_what_it_merges() -> None:
    train = "{stage: train, model: m, data: t, video: "
    steps = f"x: {train}&n {{<<: &m {{fps: 1}}, fps: 4}}}}, y: {train}{{<<: *n}}}}"
    text = f"{{name: p, data: {{t: e}}, models: {{m: b}}, steps: {{{steps}}}}}"
    made = make_plan(parse_pipeline(text, "p"), {"t": ("a",)}, {"m": "d" * 64})
    assert [node.recipe["video"]["fps"] for node in made.nodes] == [4, 4]


def test_what_a_model_was_trained_on_is_followed_through_quantisation() -> None:
    made = plan()
    nodes = {node.name: node for node in made.nodes}
    small = next(row for row in made.rows if row.name == "small")
    assert {s.artifact or s.node for s in nodes[small.evaluate].inputs["seen"]} == {"a" * 64, "b" * 64, "labels"}
    assert "seen" not in nodes[made.rows[0].evaluate].inputs


def test_the_rows_that_chose_a_models_weights_are_rows_it_has_seen() -> None:
    text = GOOD.replace("data: [train, labels]}", "data: labels, validation: train}")
    nodes = {node.name: node for node in plan(text).nodes}
    assert [source.artifact for source in nodes["tuned"].inputs["validation"]] == ["a" * 64, "b" * 64]
    evaluated = next(node for name, node in nodes.items() if name.startswith("evaluate") and "seen" in node.inputs)
    assert {s.artifact or s.node for s in evaluated.inputs["seen"]} == {"a" * 64, "b" * 64, "labels"}


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ("validation: elsewhere", "no data or earlier step is called 'elsewhere'"),
        ("validation: {train: 1}", "steps.tuned.validation: must be a name"),
        ("modules: {vision: {train: false}, projector: {train: false}, language: {train: false}}", "all frozen"),
        ("modules: {tower: {}}", "steps.tuned: modules.tower"),
        ("zero: zero4", "steps.tuned: zero"),
        ('lora: {targets: "("}', "no regular expression"),
        ("early_stop: {patience: 0}", "early_stop.patience"),
    ],
)
def test_a_wrong_training_recipe_is_told_where_it_stands(train: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        plan(GOOD.replace("data: [train, labels]}", f"data: [train, labels], {train}}}"))


def test_the_rows_that_calibrate_a_model_are_rows_it_has_seen() -> None:
    text = GOOD.replace("model: tuned, scheme: nvfp4a16", "model: base, scheme: awq, data: train")
    nodes = {node.name: node for node in plan(text).nodes}
    small = next(row for row in plan(text).rows if row.name == "small")
    assert {s.artifact for s in nodes[small.evaluate].inputs["seen"]} == {"a" * 64, "b" * 64}
    made = plan(text.replace("scheme: awq, data: train", "scheme: nvfp4a16"))  # which looks at none
    assert all("seen" not in node.inputs for node in made.nodes if node.name == made.rows[2].evaluate)


def test_a_quantised_row_gets_a_verdict_and_the_gate_that_stands_nearest() -> None:
    def evaluated(text: str, row: str) -> Node:
        made = plan(text)
        nodes = {node.name: node for node in made.nodes}
        return nodes[next(planned for planned in made.rows if planned.name == row).evaluate]

    assert evaluated(GOOD, "small").inputs["model"][0].node == "small"
    assert evaluated(GOOD, "small").recipe["gate"] is None
    assert "model" not in evaluated(GOOD, "tuned").inputs
    whole = GOOD.replace("  test: test\n", "  test: test\n  gate: {max_drop: 0.02}\n")
    assert evaluated(whole, "small").recipe["gate"] == {"max_drop": 0.02, "min_recovery": None, "by": "estimate"}
    assert evaluated(whole, "tuned").recipe["gate"] is None
    own = whole.replace("{parent: tuned,", "{parent: tuned, gate: {min_recovery: 0.98, by: interval},")
    assert evaluated(own, "small").recipe["gate"] == {"max_drop": None, "min_recovery": 0.98, "by": "interval"}
    gated = evaluated(GOOD.replace("{parent: baseline}", "{parent: baseline, gate: {max_drop: 0}}"), "tuned")
    assert gated.inputs["model"][0].node == "tuned"
    with pytest.raises(UsageError, match=r"report.rows.baseline.gate: there is no parent"):
        plan(GOOD.replace("{model: base, ", "{model: base, gate: {max_drop: 0}, "))


def test_what_a_model_of_an_earlier_run_was_trained_on_counts_too() -> None:
    made = make_plan(parse_pipeline(GOOD, "p"), DATASETS, MODELS, {MODELS["base"]: Made(("e" * 64,))})
    nodes = {node.name: node for node in made.nodes}
    seen = [{s.artifact or s.node for s in nodes[row.evaluate].inputs["seen"]} for row in made.rows]
    assert seen == [{"e" * 64}, {"a" * 64, "b" * 64, "labels", "e" * 64}, {"a" * 64, "b" * 64, "labels", "e" * 64}]


def test_a_model_is_asked_as_it_was_trained() -> None:
    tuned = "tuned: {stage: train, model: base, data: [train, labels]"
    text = GOOD.replace(tuned, tuned + ", system_prompt: short, video: {fps: 4}")
    nodes = {n.name: n for n in plan(text.replace("name: p", "name: p\nvideo: {tokens_per_patch: 256}")).nodes}
    for name in (
        "tuned",
        "small",
        "predict tuned on test (vllm, short)",
        "predict small on test (transformers, short)",
    ):
        video = nodes[name].recipe["video"]
        assert (nodes[name].recipe["system_prompt"], video["fps"], video["tokens_per_patch"]) == ("short", 4, 256)
    assert nodes["predict base on test (vllm, none)"].recipe["video"]["fps"] == 2


def test_fan_out_makes_a_task_a_shard_and_waits_for_its_sources() -> None:
    nodes = {node.name: node for node in plan().nodes}
    assert expand(nodes["tuned"], {}) is None
    (train,) = expand(nodes["tuned"], {"labels": ("e" * 64,)}) or []
    assert train.inputs["data"] == ("a" * 64, "b" * 64, "e" * 64)
    on_train = make_plan(parse_pipeline(GOOD.replace("data: test}", "data: [train]}"), "p"), DATASETS, MODELS)
    shards = expand(next(n for n in on_train.nodes if n.name == "labels"), {}) or []
    assert [task.inputs["data"] for task in shards] == [("a" * 64,), ("b" * 64,)]
    assert len({task.key for task in shards}) == 2


def test_a_seed_or_a_replicate_is_other_work_and_a_name_is_not() -> None:
    def key(text: str) -> str:
        made = make_plan(parse_pipeline(text, "p"), DATASETS, MODELS)
        node = next(n for n in made.nodes if n.stage == "train")
        return (expand(node, {"labels": ("e" * 64,)}) or [])[0].key

    tuned = "tuned: {stage: train, model: base, data: [train, labels]"
    assert key(GOOD) == key(GOOD.replace("name: p", "name: other"))
    assert key(GOOD) != key(GOOD.replace(tuned, tuned + ", seed: 1"))
    assert key(GOOD) != key(GOOD.replace(tuned, tuned + ", replicate: 1"))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("scheme: nvfp4a16", "scheme: fp4", "steps.small: scheme"),
        ("data: [train, labels]", "data: [train, label]", "no data or earlier step is called 'label'"),
        ("model: base, data", "model: bass, data", "no model or earlier train or quantize step is called 'bass'"),
        ("stage: label,", "stage: lable,", "steps.labels.stage: must be"),
        ("{parent: baseline}", "{parent: nobody}", "report.rows.tuned.parent: no row is called 'nobody'"),
        ("{parent: baseline}", "{against: [nobody]}", "report.rows.tuned.against: no row is called 'nobody'"),
        ("{parent: baseline}", "{parent: baseline, against: [baseline]}", "is the row itself or its parent"),
        ("{parent: baseline}", "{against: [tuned]}", "is the row itself or its parent"),
        ("name: p", "name: P!", "p.yaml: name"),
        ("stage: label, data: test", "stage: label, data: test, threshold: 2", "threshold"),
        ("steps:", "stepps:", "stepps"),
        ("{parent: baseline}", "{parent: baseline, model: labels}", "no model or earlier train or quantize step"),
        ("    tuned: {parent", "    labels: {parent", "no model or earlier train or quantize step is called 'labels'"),
        ("name: p", "name: [", "not YAML"),
        ("name: p", "name: p\nname: q", "'name' stands twice"),
        ("name: p", "name: " + 3000 * "[", "not YAML"),
        ("scheme: nvfp4a16", "scheme: awq", "steps.small.data: awq is calibrated on rows"),
        ("scheme: nvfp4a16", "scheme: awq, data: train, group_size: 48", "steps.small: group_size"),
        ("scheme: nvfp4a16", "scheme: nvfp4a16, data: train", "steps.small.data: nvfp4a16 looks at no rows"),
        ("scheme: nvfp4a16", "scheme: gptq, calibration: none, data: train", "calibration: none looks at no rows"),
        ("model: base, data", "model: base, epochs: .inf, data", "steps.tuned: epochs"),
        ("model: base, data", "model: base, seed: -1, data", "steps.tuned: seed"),
        ("report:", "submission: {data: labels, model: tuned}\nreport:", "submission.data: 'labels' is none of the"),
        ("{parent: baseline}", "{parent: baseline, asking: {samples: 3}}", "report.rows.tuned.asking: "),
        ("{parent: baseline}", "{parent: baseline, asking: {rotat: 3}}", "report.rows.tuned.asking.rotat"),
    ],
)
def test_a_wrong_file_is_told_in_one_line_that_names_the_place(old: str, new: str, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        plan(GOOD.replace(old, new, 1))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_row_may_ask_otherwise_than_its_parent() -> None:
    made = plan(GOOD.replace("{parent: baseline}", "{parent: baseline, asking: {rotate: 4, reasoning: true}}", 1))
    nodes = {node.name: node for node in made.nodes}
    rows = {row.name: nodes[row.predict] for row in made.rows}
    asked = {name: (node.recipe["rotate"], node.recipe["reasoning"]) for name, node in rows.items()}
    assert asked == {"baseline": (1, False), "tuned": (4, True), "small": (1, False)}
    assert rows["tuned"].name == "predict tuned on test (vllm, expert, rotate 4, reasoning)"


def test_a_step_may_not_shadow_data() -> None:
    with pytest.raises(UsageError, match="choose another"):
        plan(GOOD.replace("labels: {stage: label, data: test}", "train: {stage: label, data: test}"))


def test_every_preset_makes_a_plan() -> None:
    assert presets() == ["sandbox", "seed"]
    for name in presets():
        pipeline = read_pipeline(None, name)
        made = make_plan(pipeline, dict.fromkeys(pipeline.data, ("f" * 64,)), dict.fromkeys(pipeline.models, "d" * 64))
        assert [row.name for row in made.rows] == [
            "baseline",
            "prompt",
            "fine-tuned A",
            "fine-tuned B",
            "B fp4",
            "B awq",
        ]
