"""Do the closed forms follow from the recursions? SymPy derives them; nothing is numerical.

Each `Step` says what is derived, from what, and what is left over: 0 where the closed form holds.
"""

from dataclasses import dataclass

import sympy as sp

Z, X, BETA, GAMMA, TAU = sp.symbols("z x beta gamma tau")
A, B = sp.symbols("a b", positive=True)
NU = sp.symbols("nu", positive=True)


@dataclass(frozen=True)
class Step:
    """One derived formula.

    Attributes:
        name: What it is.
        formula: As text.
        latex: The same.
        residue: Derived minus closed form, simplified; "0" where they agree.
    """

    name: str
    formula: str
    latex: str
    residue: str


def derivation() -> list[Step]:
    """All formulas that the rest of the study uses in closed form, derived anew."""
    return [*generating_steps(), *boundary_steps(), pair_step(), *asymptotic_steps()]


def mode_matrix() -> sp.Matrix:
    """(C, J, P) of a mode one step on, without the noise of other modes; x = αλ, g = γτ."""
    g = GAMMA * TAU
    speed = sp.Matrix([[X**2 * (1 - g), -2 * BETA * X, BETA**2]])
    mixed = sp.Matrix([[-X, BETA, 0]]) + speed
    second = sp.Matrix([[1 - 2 * X, 2 * BETA, 0]]) + speed
    return sp.Matrix.vstack(second, mixed, speed)


def closed_denominator() -> sp.Expr:
    """S(z)."""
    g = GAMMA * TAU
    free = (1 - Z) * (1 - BETA * Z) * (1 - BETA**2 * Z)
    drawn = 2 * X * Z * (1 + BETA) * (1 - BETA * Z)
    return free + drawn - X**2 * Z * ((1 - BETA * Z) - g * (1 + BETA * Z))


def responses() -> tuple[sp.Expr, sp.Expr]:
    """Σ_t C_t z^t after a unit start (1, 0, 0) and after a unit of noise (1, 1, 1)."""
    system = sp.eye(3) - Z * mode_matrix()
    return _first_unknown(system, [1, 0, 0]), _first_unknown(system, [1, 1, 1])


def _first_unknown(system: sp.Matrix, right: list[int]) -> sp.Expr:
    """The first unknown of a linear system, by Cramer's rule."""
    replaced = system.copy()
    replaced[:, 0] = sp.Matrix(right)
    return replaced.det(method="berkowitz") / system.det(method="berkowitz")


def generating_steps() -> list[Step]:
    """S, and a mode's parts of Ũ and Ṽ."""
    s = closed_denominator()
    start, noise = responses()
    signal = (2 * X * BETA * Z + (1 - BETA * Z) * (1 - BETA**2 * Z)) / s
    forced = (1 + BETA * Z) / s
    determinant = (sp.eye(3) - Z * mode_matrix()).det(method="berkowitz")
    return [
        _step("S(z) = det(1 − zM)", s, determinant),
        _step("a mode's part of Ṽ, for c = 1", signal, start),
        _step("a mode's part of Ũ, for γx² = 1", forced, noise),
    ]


def boundary_steps() -> list[Step]:
    """Ũ(1), and the learning rate of divergence in its closed forms."""
    g, q = GAMMA * TAU, (1 - BETA) / (1 + BETA)
    part = X**2 * (1 + BETA * Z) / closed_denominator()
    gain = X / (2 * (1 - BETA) + X * (g - q))
    flat = gain.subs(TAU, 1).subs(BETA, (1 - GAMMA) / (1 + GAMMA))
    single = gain.subs({BETA: 0, TAU: 1, GAMMA: 1})
    return [
        _step("a mode's part of Ũ(1), for γ = 1", gain, part.subs(Z, 1)),
        _step("b = 1, β = 0, τ = 1: Ũ(1) = αΣλ/2, α_c = 2/Σλ", X / 2, single),
        _step(
            "β = (1−γ)/(1+γ), τ = 1: Ũ(1) = γαΣλ/(2(1−β)), α_c = 2(1−β)/(γΣλ)",
            X / (2 * (1 - (1 - GAMMA) / (1 + GAMMA))),
            flat,
        ),
    ]


def pair_step() -> Step:
    """W of the averaged regime: C_kl summed after unit forcing of (C, J_kl, J_lk, P)."""
    speed = sp.Matrix([[(1 - GAMMA) * A * B, -BETA * A, -BETA * B, BETA**2]])
    mixed = sp.Matrix([[-B, BETA, 0, 0]]) + speed
    crossed = sp.Matrix([[-A, 0, BETA, 0]]) + speed
    second = sp.Matrix([[1 - A - B, BETA, BETA, 0]]) + speed
    system = sp.eye(4) - sp.Matrix.vstack(second, mixed, crossed, speed)
    summed = _first_unknown(system, [1, 1, 1, 1])
    below = (1 - BETA) * (A + B) + BETA * (A + B) ** 2 / (1 - BETA**2)
    below -= 2 * BETA * A * B / (1 - BETA) + (1 - GAMMA) * A * B
    return _step("W of the averaged regime", 1 / below, summed)


def asymptotic_steps() -> list[Step]:
    """The integrals behind C_sig and C_noise, and the best α of both phases at β = 0.

    Sums over k become integrals over λ = k^−ν, for A = Λ = 1, and those over s = 2αλt Γ functions.
    """
    zeta, s, u = sp.symbols("zeta s u", positive=True)
    power, rate = sp.symbols("p r", positive=True)  # p = 1 − 1/ν > 0, r = 2αt
    signal = sp.integrate(s ** (zeta - 1) * sp.exp(-s), (s, 0, sp.oo)) * rate**-zeta
    late = sp.integrate(s**power * sp.exp(-s), (s, 0, sp.oo)) * rate ** (-power - 1)
    # Ũ(1) = γαΣλ/2 =: u at small x, so α is u times a constant
    signal_best = sp.solve(sp.numer(sp.together(sp.diff(-zeta * sp.log(u) - sp.log(1 - u), u))), u)
    slope = sp.diff((1 / NU - 1) * sp.log(u) - 2 * sp.log(1 - u), u)
    noise_best = sp.solve(sp.numer(sp.together(slope)), u)
    return [
        _step(
            "∫λ^{ζ−1} e^{−2αλt} dλ, of C_sig: Γ(ζ+1)(2αt)^−ζ/ζ",
            sp.gamma(zeta + 1) * rate**-zeta / zeta,
            signal,
        ),
        _step(
            "∫λ^{1−1/ν} e^{−2αλt} dλ, of C_noise, p = 1 − 1/ν: Γ(2−1/ν)(2αt)^−(2−1/ν)",
            sp.gamma(power + 1) * rate ** (-power - 1),
            late,
        ),
        _step("signal phase, β = 0: best Ũ(1)", zeta / (1 + zeta), signal_best[0]),
        _step("noise phase, β = 0: best Ũ(1)", (NU - 1) / (3 * NU - 1), noise_best[0]),
    ]


def _step(name: str, closed: sp.Expr, derived: sp.Expr) -> Step:
    """Rational functions are compared by their numerators over a common denominator."""
    difference = sp.gammasimp(closed - derived) if closed.has(sp.gamma) else closed - derived
    numerator = sp.expand(sp.numer(sp.together(difference)))
    residue = sp.simplify(numerator) if closed.has(sp.gamma) else numerator
    return Step(name, str(closed), sp.latex(closed), str(residue))
