"""The benchmarks measure what they say: fair turns, medians, the same work in both variants, every move a real one."""

import gc
import json
import subprocess
import sys
from importlib.metadata import version
from types import SimpleNamespace

import ipywidgets
import nbformat
import pytest
import torch

from pefteach.lessons.kit.panel import Panel
from pefteach.methods import METHODS
from pefteach.workshop import bench
from pefteach.workshop.bench import lessons, methods, print_bench, qlora, start, timing, widgets
from pefteach.workshop.machine import need
from pefteach.workshop.rows import row

# --- rows -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "peer", "limit", "ratio", "holds"),
    [
        (12.0, 10.0, 1.2, 1.2, True),  # the limit itself still holds
        (12.1, 10.0, 1.2, 1.21, False),
        (0.5, 0.25, 1.0, 2.0, False),  # the ratio counts, not the figure
        (99.0, None, 100.0, None, True),
        (101.0, None, 100.0, None, False),
        (7.0, 1.0, None, 7.0, True),  # without a limit there is nothing to miss
    ],
)
def test_a_limit_is_for_the_ratio_or_else_for_the_figure(ours, peer, limit, ratio, holds):
    made = row("a", "ms", ours, limit, peer)
    assert made["ratio"] == (None if ratio is None else pytest.approx(ratio))
    assert made["holds"] is holds


@pytest.fixture
def fake_rows(monkeypatch):
    rows = [row("[fast]", "ms", 1.0, 1.0, 2.0), row("slow", "s", 30.0, 20.0)]
    monkeypatch.setattr(start, "run", lambda: rows)
    return rows


def test_json_holds_the_rows_and_the_machine(fake_rows, capsys):
    print_bench("start", json=True)
    said = json.loads(capsys.readouterr().out)
    assert said["rows"] == fake_rows
    assert {"name", "ours", "peer", "ratio", "bar", "holds"} <= said["rows"][0].keys()
    assert said["machine"]["torch"] == version("torch")
    assert said["machine"]["cores"] >= 1 and said["machine"]["cpu"]


def test_the_table_says_in_words_what_holds(fake_rows, capsys):
    print_bench("start", json=False)
    fast, slow = (line for line in capsys.readouterr().out.splitlines() if "fast" in line or "slow" in line)
    assert "[fast]" in fast and "0.500" in fast and "yes" in fast
    assert "30 s" in slow and "NO" in slow


def test_an_unknown_benchmark_is_told_the_names():
    with pytest.raises(ValueError, match=r"'speed': choose one of gpu, lessons, methods, qlora, quant, start, widgets"):
        print_bench("speed", json=False)


def test_a_missing_package_is_one_sentence():
    with pytest.raises(ValueError, match=r"cannot import no_such_package .*pip install"):
        need("no_such_package")


def test_every_benchmark_has_a_run():
    assert set(bench.NAMES) >= {"gpu", "lessons", "methods", "qlora", "quant", "start", "widgets"}
    assert all(
        callable(getattr(bench.import_module(f"pefteach.workshop.bench.{name}"), "run", None)) for name in bench.NAMES
    )


# --- turns ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """A clock that only moves when a variant says how long it took."""
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: now.seconds))
    return now


def test_variants_take_turns_and_the_median_counts(clock):
    order, takes = [], {"a": iter([50, 1, 1, 100, 2]), "b": iter([50, 4, 3, 3, 200])}

    def variant(name):
        def run():
            order.append(name)
            clock.seconds += next(takes[name])

        return run

    medians = timing.median_seconds({name: variant(name) for name in takes}, rounds=4, warmup=1)
    # a: 1, 1, 100, 2 and b: 4, 3, 3, 200. The warm-up's 50 is not among them; a mean would be 26 and 52.5.
    assert medians == {"a": 1.5, "b": 3.5}
    rounds = [order[i : i + 2] for i in range(0, len(order), 2)]
    assert all(sorted(turn) == ["a", "b"] for turn in rounds) and len(rounds) == 5
    assert {turn[0] for turn in rounds} == {"a", "b"}  # neither always goes first


def test_the_collector_rests_while_it_counts_and_comes_back():
    seen = []
    timing.median_seconds({"a": lambda: seen.append(gc.isenabled())}, rounds=1, warmup=0)
    assert seen == [False] and gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        timing.median_seconds({"a": lambda: 1 / 0}, rounds=1)
    assert gc.isenabled()


# --- methods --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, comparison in methods.COMPARISONS.items() if comparison.reference])
def test_both_arms_do_the_same_work(name):
    comparison = methods.COMPARISONS[name]
    pytest.importorskip(comparison.reference)
    torch.manual_seed(0)
    ours, theirs = methods.training_steps(methods.llama(64), comparison, torch.randint(methods.VOCABULARY, (2, 16)))
    # Three steps: a scale, an optimiser, a penalty or a target that differs shows from the second on.
    mine = [ours() for _ in range(3)]
    assert mine == pytest.approx([theirs() for _ in range(3)], rel=1e-5)
    assert mine[0] != mine[2]


def test_every_method_meets_its_reference_and_its_floor():
    rows = {row["name"]: row for row in methods.run(rounds=1, builds=2, width=64)}
    against = [f"{name} against {c.reference}" for name, c in methods.COMPARISONS.items() if c.reference]
    floors = [name for name in rows if "forward passes" in name]
    assert set(rows) == {*against, *floors} and len(floors) == len(methods.COMPARISONS)
    assert all(rows[name]["bar"] == 1.0 for name in against)
    two, three = rows["norms against 2 forward passes"], rows["full fine-tuning against 3 forward passes"]
    assert three["peer"] == pytest.approx(two["peer"] * 1.5)
    assert two["bar"] == three["bar"] == rows["LoRA q, v against 2 forward passes"]["bar"] == 1.2
    assert rows["DoRA against 2 forward passes"]["bar"] is None


def test_the_benchmark_knows_every_method():
    assert {type(comparison.method) for comparison in methods.COMPARISONS.values()} == set(METHODS)


# --- qlora ----------------------------------------------------------------------------------------------------------


def test_the_damage_of_every_grid_and_the_order():
    rows = {row["name"]: row for row in qlora.damage(samples=2, count=8)}
    assert sum("loss of the base" in name for name in rows) == 7
    order = {name: row for name, row in rows.items() if name.startswith("damage of")}
    assert len(order) == len(qlora.ORDER) and all(row["bar"] == 1.0 for row in order.values())
    assert rows["damage of 3 bit against 2 bit, in the worst of 2 samples"]["holds"]


def test_wrong_levels_would_break_the_order(monkeypatch):
    monkeypatch.setitem(qlora.GRIDS, "NF4", qlora.GRIDS["3 bit"])
    rows = {row["name"]: row for row in qlora.damage(samples=1, count=8)}
    assert not rows["damage of NF4 against INT4, in the worst of 1 samples"]["holds"]


def test_merging_is_exact_in_32_bits_and_not_in_4():
    rows = {row["name"]: row for row in qlora.training(steps=6, seeds=1, rows=2)}
    names = ("QLoRA against LoRA's", "merged into 32 bits against LoRA's", "merged into 4 bits against LoRA's")
    four_bit, exact, rounded = (rows[f"loss of {name}"]["ours"] for name in names)
    assert exact == pytest.approx(four_bit, rel=1e-4) and abs(rounded - four_bit) > 1e-3
    assert rows["loss of QLoRA against LoRA's"]["bar"] == 1.02
    assert 0 < rows["rounding error of merging into 4 bits, as a share of LoRA's change"]["ours"]


# --- widgets --------------------------------------------------------------------------------------------------------


def test_every_move_redraws_and_every_control_moves():
    drawn = []

    def draw(figure, **values):
        drawn.append(values)
        return "nothing"

    panel = Panel(
        draw,
        question="?",
        rank=ipywidgets.IntSlider(2, 1, 4),
        share=ipywidgets.FloatSlider(value=0.5, min=0.0, max=1.0, step=0.01),
        power=ipywidgets.SelectionSlider(options=[1, 2, 4], value=1),
        name=ipywidgets.Dropdown(options=[("first", "a"), ("second", "b")], value="a"),
        on=ipywidgets.Checkbox(value=False),
        text=ipywidgets.Text("abc"),
    )
    before, drawn[:] = panel.values, []
    taken = widgets.moves(panel)
    assert len(taken) == len(drawn)  # a control set to the value it has would be a move that costs nothing
    assert all(ms > 0 for ms in taken)
    assert panel.values == before
    assert {v["rank"] for v in drawn} == {1, 2, 3, 4}
    assert {v["power"] for v in drawn} == {1, 2, 4}
    assert {v["name"] for v in drawn} == {"a", "b"}
    assert {v["on"] for v in drawn} == {True, False}
    assert {v["text"] for v in drawn} == {"a", "ab", "abc"}
    shares = {v["share"] for v in drawn}
    assert 15 <= len(shares) <= widgets.MOST + 2 and min(shares) == 0.0 and max(shares) > 0.9


def test_an_unknown_control_is_refused():
    with pytest.raises(ValueError, match="ColorPicker"):
        widgets.positions(ipywidgets.ColorPicker())


def test_every_explorer_has_an_example():
    for name, panel in widgets.examples().items():
        assert isinstance(panel, Panel), name
        assert panel.controls, name


# --- lessons --------------------------------------------------------------------------------------------------------


@pytest.fixture
def notebook(tmp_path):
    def write(*sources: str):
        cells = [nbformat.v4.new_code_cell(source) for source in sources]
        file = tmp_path / "07_lora.ipynb"
        nbformat.write(
            nbformat.v4.new_notebook(
                cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}}
            ),
            file,
        )
        return file

    return write


def test_a_lesson_is_timed_cell_by_cell_and_left_alone(notebook):
    file = notebook("import os; assert os.environ['TQDM_DISABLE'] == '1'", "assert open('07_lora.ipynb')", "1 + 1")
    before = file.read_bytes()
    whole, cells = lessons.run_notebook(file)
    assert len(cells) == 3
    assert 0 < sum(cells) < whole
    assert file.read_bytes() == before


def test_a_lesson_that_fails_is_not_timed(notebook):
    with pytest.raises(ValueError, match="ZeroDivisionError"):
        lessons.run_notebook(notebook("1 / 0"))


def test_a_lesson_has_a_row_for_the_whole_and_one_for_its_slowest_cell(notebook, monkeypatch):
    monkeypatch.setattr(lessons, "COURSE", notebook("1").parent)
    monkeypatch.setattr(lessons, "hundred_steps", lambda: 15.5)
    monkeypatch.setattr(lessons, "run_notebook", lambda file: (59.0, [1.0, 21.0, 3.0]))
    training, whole, slowest = lessons.run()
    assert (training["ours"], training["holds"]) == (15.5, False)
    assert (whole["name"], whole["ours"], whole["holds"]) == ("07_lora", 59.0, True)
    assert (slowest["name"], slowest["ours"], slowest["holds"]) == ("07_lora, code cell 2, its slowest", 21.0, False)


def test_no_lessons(tmp_path, monkeypatch):
    monkeypatch.setattr(lessons, "COURSE", tmp_path)
    with pytest.raises(FileNotFoundError, match="no lessons in"):
        lessons.run()


# --- start ----------------------------------------------------------------------------------------------------------


def test_start_is_what_comes_on_top_of_torch(monkeypatch):
    monkeypatch.setattr(
        start, "median_seconds", lambda variants, rounds, warmup: dict(zip(variants, (2.0, 2.125, 2.25)))
    )
    rows = start.run()
    assert [row["ours"] for row in rows] == [0.125, 0.25]
    assert [row["holds"] for row in rows] == [True, False]


@pytest.mark.parametrize("code", start.VARIANTS.values())
def test_importing_pefteach_loads_no_other_library_that_is_slow(code):
    slow = {"transformers", "peft", "bitsandbytes", "matplotlib", "ipywidgets", "jupyterlab", "IPython"}
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(sorted({slow!r} & sys.modules.keys()))"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"
