"""Do the commands run what their flags say, and refuse the rest in one line?"""

import numpy as np
import pandas as pd
import pytest

from studies.sgd_regimes import averaged, spectral_diagonal
from studies.sgd_regimes.command_runs import predicted
from studies.sgd_regimes.commands import chosen, main, paired
from studies.sgd_regimes.kernels import spectrum
from studies.sgd_regimes.samples import synthetic

SMALL = ["--N", "20", "--batch_size", "4", "--n_steps", "15"]


def run(tmp_path, *arguments):
    assert main([*arguments, *SMALL, "--out", str(tmp_path)]) == 0
    return pd.read_csv(tmp_path / "losses.csv")


def refusal(capsys, *arguments):
    """The one line on stderr of a command that exits with 2."""
    try:
        status = main(list(arguments))
    except SystemExit as stop:
        status = stop.code
    assert status == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_full_is_the_averaged_regime(tmp_path, capsys):
    table = run(tmp_path, "full", "--lr", "0.3", "--momentum", "0.2", "--kappa", "0.8")
    expected = averaged(*synthetic(20, 1.5, 0.8), 4, 0.3, 0.2, 15)
    np.testing.assert_allclose(table["loss"], expected, rtol=1e-12)
    assert capsys.readouterr().out.strip() == str(tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size > 1_000_000  # plotly.js is inside


def test_lists_give_every_combination_and_zip_pairs_them(tmp_path):
    lists = ["spectral", "--lr", "0.1", "0.3", "--momentum", "0", "0.5", "--tau", "0", "1"]
    table = run(tmp_path / "prod", *lists)
    settings = table[["lr", "momentum", "tau"]].drop_duplicates()
    assert len(settings) == 8
    paired_table = run(tmp_path / "zip", *lists, "--aggr_type", "zip")
    found = paired_table[["lr", "momentum"]].drop_duplicates().to_numpy().tolist()
    assert found == [[0.1, 0.0], [0.3, 0.5]]
    values = spectrum(*synthetic(20, 1.5, 1.0))
    expected = spectral_diagonal(*values, 4, 0.3, 0.5, 0.0, 15)
    some = paired_table.query("lr == 0.3 and tau == 0")
    np.testing.assert_allclose(some["loss"], expected, rtol=1e-12)


def test_lists_of_one_are_repeated():
    assert paired({"lr": [1, 2], "momentum": [0]}) == [(1, 0), (2, 0)]


def test_all_runs_the_network_beside_the_others_and_validates(tmp_path):
    arguments = ["--dataset", "digits", "--width", "16", "--n_runs", "3", "--validation", "10"]
    table = run(tmp_path, "all", *arguments, "--modes")
    assert list(table["regime"].unique()) == ["network", "linearised", "averaged", "spectral"]
    start = table[table["step"] == 0]
    np.testing.assert_allclose(start["loss"], start["loss"].iloc[0], rtol=1e-9)
    kept = start[start["regime"] != "spectral"]["validation"]
    np.testing.assert_allclose(kept, kept.iloc[0], rtol=1e-9)
    modes = np.load(tmp_path / "modes.npz")
    assert {name.split(":")[0] for name in modes} == {"linearised", "averaged", "spectral(τ = 1)"}
    assert all(modes[name].shape == (16, 20) for name in modes)


def test_the_analytic_kernel_has_the_targets_for_residual(tmp_path):
    table = run(tmp_path, "full", "--dataset", "digits", "--ntk", "analytic", "--width", "4")
    assert table["loss"].iloc[0] == pytest.approx(0.5)  # of standardised targets


def test_without_inputs_all_leaves_the_network_out(tmp_path):
    table = run(tmp_path, "all", "--n_runs", "2")
    assert list(table["regime"].unique()) == ["linearised", "averaged", "spectral"]


def test_adam_is_run_where_there_is_one(tmp_path):
    arguments = ["--dataset", "digits", "--width", "8", "--n_runs", "2", "--opt", "adam"]
    table = run(tmp_path, "all", *arguments, "--lr", "0.01")
    assert list(table["regime"].unique()) == ["network", "linearised"]


def test_a_schedule_is_everybodys(tmp_path):
    arguments = ["--sched", "jacobi", "--jacobi", "0.5", "1", "--lr", "0.2", "--n_runs", "2"]
    table = run(tmp_path, "all", *arguments)
    expected = averaged(*synthetic(20, 1.5, 1.0), 4, 0.2, 0.0, 15, ("jacobi", 0.5, 1.0))
    found = table[table["regime"] == "averaged"]["loss"]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_rates_come_from_a_file(tmp_path, capsys):
    file = tmp_path / "rates.csv"
    file.write_text("nu,kappa,lr\n1.5,1,0.3\n2,1,0.2\n")
    table = run(tmp_path, "full", "--lr_file", str(file), "--nu", "1.5", "2")
    assert table.groupby("nu")["lr"].first().to_dict() == {1.5: 0.3, 2.0: 0.2}
    line = refusal(capsys, "full", "--lr_file", str(file), "--nu", "3")
    assert "--nu 3 --kappa 1 given; allowed with" in line
    line = refusal(capsys, "full", "--lr_file", str(file), "--lr", "1")
    assert line == "sgd_regimes: --lr and --lr_file given; allowed: one of them"
    file.write_text("nu,lr\n1,1\n")
    assert "no column kappa" in refusal(capsys, "full", "--lr_file", str(file))


def test_a_saved_kernel_is_run(tmp_path):
    kernel, residual = synthetic(20, 1.2, 1.0)
    np.savez(tmp_path / "kernel.npz", kernel=3 * kernel, residual=residual)
    table = run(tmp_path, "full", "--kernel", str(tmp_path / "kernel.npz"), "--lr", "0.3")
    expected = averaged(kernel, residual, 4, 0.3, 0.0, 15)  # rescaled to λ_max = 1
    np.testing.assert_allclose(table["loss"], expected, rtol=1e-10)


def test_a_kernel_without_residual_takes_the_power_law(tmp_path):
    kernel, residual = synthetic(20, 1.2, 0.7)
    np.save(tmp_path / "kernel.npy", kernel)
    arguments = ["--kernel", str(tmp_path / "kernel.npy"), "--kappa", "0.7", "--lr", "0.3"]
    table = run(tmp_path, "spectral", *arguments)
    expected = spectral_diagonal(*spectrum(kernel, residual), 4, 0.3, num_steps=15)
    np.testing.assert_allclose(table["loss"], expected, rtol=1e-10)


def test_a_run_that_overflows_is_said_and_the_others_go_on(tmp_path, capsys):
    arguments = ["full", "--lr", "0.1", "30", "--N", "20", "--n_steps", "500"]
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    error = capsys.readouterr().err
    assert "averaged: lr = 30" in error
    assert "the loss overflows at step" in error
    assert pd.read_csv(tmp_path / "losses.csv")["lr"].unique().tolist() == [0.1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nn"], "nn with --dataset synthetic, which has no inputs; allowed: --dataset mnist"),
        (["full", "--lr", "0"], "lr 0 given; allowed: finite and > 0"),
        (["full", "--batch_size", "30", "--N", "20"], "batch_size 30 given with N = 20"),
        (["full", "--momentum", "1"], "momentum 1 given; allowed: -1 < momentum < 1"),
        (["spectral", "--tau", "50"], "tau 50 given with γ up to"),
        (["spectral", "--nu", "0"], "nu 0 given; allowed: finite and > 0"),
        (["full", "--sched", "cosine"], "argument --sched: invalid choice: 'cosine'"),
        (["full", "--opt", "adam"], "--opt adam with full; allowed there: sgd"),
        (["all", "--opt", "adam", "--modes"], "--opt adam with --modes"),
        (["linearized", "--opt", "adam", "--momentum", "0.5"], "allowed there: --momentum 0"),
        (["nn", "--dataset", "digits", "--opt", "adam", "--sched", "jacobi"], "--sched constant"),
        (
            ["linearized", "--dataset", "digits", "--opt", "adam", "--ntk", "analytic"],
            "--opt adam with --ntk analytic",
        ),
        (["full", "--noise", "online"], "--noise online with full, which draws from N samples"),
        (["linearized", "--noise", "online"], "--noise online with linearized"),
        (["nn", "--dataset", "digits", "--modes"], "--modes with nn, which has no C_k"),
        (
            ["spectral", "--dataset", "digits", "--validation", "5"],
            "--validation 5 with spectral, which knows no other samples",
        ),
        (["full", "--validation", "5"], "--validation with --dataset synthetic"),
        (["linearized", "--n_runs", "0"], "too small; allowed: >= 0, 1, 1"),
        (["full", "--kernel", "nothing.npy"], "kernel file nothing.npy cannot be read"),
        (["full", "--dataset", "digits", "--N", "5000"], "N = 5000 given; allowed: at most 1797"),
        (["nn", "--dataset", "bike_sharing", "--root", "/nowhere"], "is not there; get it from"),
        (["sideways"], "argument command: invalid choice: 'sideways'"),
        (
            ["full", "--lr", "1", "2", "3", "--momentum", "0", "0.1", "--aggr_type", "zip"],
            "lists of lengths --lr 3, --momentum 2; allowed: lengths that are equal or 1",
        ),
    ],
)
def test_bad_input_is_refused_in_one_line(capsys, arguments, said):
    assert said in refusal(capsys, *arguments)


def test_theory_is_shown_apart_where_it_does_not_hold():
    """Noise phase: not before its transition, nor on 50 modes, whose end is felt."""
    steps = np.array([1, 10, 100, 1000, 10_000])
    for size, held in (("20000", [False, False, False, False, True]), ("50", [False] * 5)):
        asked = chosen(["spectral", "--kappa", "3", "--N", size, "--noise", "online"])
        holds, not_yet = predicted(asked.settings[0], asked.options, steps)
        assert np.isfinite(holds).tolist() == held
        assert np.isnan(not_yet).tolist() == held


def test_settings_that_look_alike_keep_their_modes(tmp_path):
    run(tmp_path, "spectral", "--lr", "0.1", "0.10000001", "--modes")
    assert len(np.load(tmp_path / "modes.npz").files) == 2


def test_without_flags_a_command_has_its_defaults():
    asked = chosen(["spectral"])
    assert asked.regimes == ("spectral",)
    (setting,) = asked.settings
    assert (setting.lr, setting.momentum, setting.batch_size) == (0.5, 0.0, 10)
