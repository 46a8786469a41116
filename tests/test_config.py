"""Configs: the published values, the round trip through JSON, and what the command line makes of good and bad words."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.problem import DataProblem, UsageProblem
from trainers.command_line import Command, parse
from trainers.config import (
    SIZES,
    TrainConfig,
    config_from_dict,
    config_to_dict,
    flat,
    identity,
    load,
    systems,
)

RATES = st.floats(1e-6, 1, allow_nan=False)
VALUES = st.fixed_dictionaries(
    {
        "size": st.sampled_from(SIZES),
        "depth": st.integers(1, 24),
        "log1p": st.booleans(),
        "projector_widths": st.lists(st.integers(1, 4096), min_size=1, max_size=4).map(tuple),
        "lr": RATES,
        "betas": st.tuples(RATES, RATES),
        "clip_norm": st.none() | RATES,
        "zero_stage": st.sampled_from([0, 1, 2, 3]),
        "seed": st.integers(0, 2**40),
    }
)


def config_of(values: dict[str, Any]) -> TrainConfig[Any, Any]:
    config = load("myna:base", values["size"])
    return replace(
        config,
        model=replace(config.model, depth=values["depth"], log1p=values["log1p"]),
        objective=replace(config.objective, projector_widths=values["projector_widths"]),
        optimizer=replace(config.optimizer, lr=values["lr"], betas=values["betas"]),
        engine=replace(config.engine, clip_norm=values["clip_norm"], zero_stage=values["zero_stage"]),
        seed=values["seed"],
    )


def words_of(config: TrainConfig[Any, Any]) -> list[str]:
    """The command line that gives `config`, every value spelled out as a person would."""
    words = [config.name, "--size", config.size]
    for name, value in flat(config).items():
        if name not in ("system", "variant", "size"):
            words += [f"--{name}", *(spelled(part) for part in (value if isinstance(value, list) else [value]))]
    return words


def spelled(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@given(VALUES)
def test_a_config_survives_the_way_through_json(values):
    config = config_of(values)
    assert config_from_dict(json.loads(json.dumps(config_to_dict(config)))) == config


@settings(max_examples=15)
@given(VALUES)
def test_every_value_can_be_given_on_the_command_line(values):
    config = config_of(values)
    assert parse(words_of(config)) == Command(config)


def test_the_paper_size_has_the_published_values():
    config = load("myna:base")
    assert (config.data.batch_examples, config.epochs) == (4096, 500)
    assert (config.optimizer.name, config.optimizer.lr, config.optimizer.weight_decay) == ("adam", 3e-4, 1e-5)
    assert (config.optimizer.warmup_epochs, config.optimizer.betas, config.optimizer.eps) == (10, (0.9, 0.999), 1e-8)
    assert (config.objective.temperature, config.objective.mask_ratio) == (0.1, 0.9)
    assert config.objective.projector_widths == (2048, 2048, 2048)
    assert (config.model.width, config.model.depth, config.model.heads, config.model.mlp_width) == (384, 12, 6, 1536)
    assert (config.model.tokens, config.model.log1p, config.engine.clip_norm) == (48, False, None)


@pytest.mark.parametrize("name", systems())
@pytest.mark.parametrize("size", SIZES)
def test_every_variant_has_every_size_and_knows_its_own_name(name, size):
    config = load(name, size)
    assert (config.name, config.size) == (name, size)
    assert config.data.frames == config.model.frames


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["mina:base"], "mean myna"),
        (["myna:bass"], "mean base"),
        (["myna"], "Choose from: .*base"),
        (["myna:base", "--size", "labtop"], "mean laptop"),
        (["myna:base", "--size"], "lacks its value"),
        ([], "myna:base"),
    ],
)
def test_an_unknown_word_is_answered_with_the_nearest(words, hint):
    with pytest.raises(UsageProblem, match=hint):
        parse(words)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--model.wdith", "64"], "--model.width"),
        (["--model.width", "wide"], "--model.width"),
        (["--model.log1p", "perhaps"], "neither true nor false"),
        (["--engine.zero-stage", "4"], "--engine.zero-stage"),
        (["--objective.projector-widths", "512", "x"], "--objective.projector-widths"),
    ],
)
def test_an_option_that_does_not_exist_or_fit_ends_with_code_2(words, told, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(["myna:base", *words])
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--epochs", "0"], ["--data.batch-examples", "-1"], ["--keep-checkpoints", "0"]])
def test_a_count_below_one_is_refused(words):
    with pytest.raises(UsageProblem, match="at least 1"):
        parse(["myna:base", *words])


def test_booleans_are_written_out_in_any_case():
    spellings = ("true", "True", "TRUE")
    assert all(parse(["myna:base", "--model.log1p", word]).config.model.log1p for word in spellings)
    assert not parse(["myna:base", "--model.log1p=false"]).config.model.log1p


@pytest.mark.parametrize(("words", "lines"), [(["--help"], 50), (["myna:base", "--help"], 66)])
def test_help_is_short_and_shows_defaults_and_an_example(words, lines, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(words)
    shown = capsys.readouterr().out
    assert ended.value.code == 0
    assert len(shown.splitlines()) <= lines
    assert "example: sonograph train myna:base" in shown and "--workers" in shown


@pytest.mark.parametrize("name", systems())
def test_help_explains_every_option_that_there_is(name, capsys):
    with pytest.raises(SystemExit):
        parse([name, "--help"])
    shown = {word for line in capsys.readouterr().out.splitlines() for word in line.split()[:1]}
    options = {f"--{option.replace('_', '-')}" for option in flat(load(name))}
    assert options - shown == {"--system", "--variant", "--size"}


def test_help_shows_the_values_of_the_chosen_size(capsys):
    with pytest.raises(SystemExit):
        parse(["myna:base", "--size", "debug", "--help"])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "--objective.projector-widths" in line]
    assert "32 32" in line


def test_a_resumed_run_brings_its_config_and_accepts_overrides(tmp_path):
    config = load("myna:base", "debug")
    (tmp_path / "config.json").write_text(json.dumps(config_to_dict(config)))
    command = parse(["--resume", str(tmp_path), "--log-every-steps", "7"])
    assert command.config == replace(config, log_every_steps=7)
    assert command.out == tmp_path


@pytest.mark.parametrize("words", [["myna:base", "--size", "laptop"], ["--fresh"], ["--out", "elsewhere"]])
def test_a_resumed_run_refuses_words_that_contradict_it(words, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config_to_dict(load("myna:base", "debug"))))
    with pytest.raises(UsageProblem, match=str(tmp_path)):
        parse([*words, "--resume", str(tmp_path)])


def test_a_folder_that_is_no_run_cannot_be_resumed(tmp_path):
    with pytest.raises(DataProblem, match=r"config\.json"):
        parse(["--resume", str(tmp_path)])


def test_a_config_of_another_version_is_refused_by_the_field_that_differs():
    content = config_to_dict(load("myna:base", "debug"))
    content["model"]["rotary"] = True
    with pytest.raises(DataProblem, match=r"model\.rotary"):
        config_from_dict(content)


@pytest.mark.parametrize("changed", [{"zero_stage": 3}, {"recompute": True}, {"compile": True}, {"skip_budget": 5}])
def test_what_changes_rounding_at_most_makes_no_other_training(changed):
    config = load("myna:base", "debug")
    other = replace(config, engine=replace(config.engine, **changed))
    assert identity(other, "data") == identity(config, "data")
    assert identity(replace(config, engine=replace(config.engine, ema_decay=0.9)), "data") != identity(config, "data")


def test_identity_changes_with_what_is_learned_and_not_with_who_watches():
    config = load("myna:base", "debug")
    watched = replace(config, log_every_steps=99, data=replace(config.data, dataset="moved"))
    assert identity(watched, "data") == identity(config, "data")
    assert identity(replace(config, seed=1), "data") != identity(config, "data")
    assert identity(config, "other data") != identity(config, "data")
