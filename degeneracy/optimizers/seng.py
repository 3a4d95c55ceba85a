"""What is a step of the sketched empirical natural gradient (SENG)?

Yang, Xu, Wen, Chen & Xu, "Sketchy empirical natural gradient methods for deep learning",
arXiv:2006.05924. The empirical Fisher matrix of a layer is UUᵀ, whose n columns vec(δ_i a_iᵀ)/√n
are the samples' own gradients: δ_i of its output, a_i its input, [a_i, 1] where it has a bias. By
Woodbury's identity the damped natural gradient asks for an n × n system alone,

    d = (λI + UUᵀ)⁻¹g = (g − U(λI + UᵀU)⁻¹Uᵀg)/λ,

and of a linear layer UᵀU = (ΔΔᵀ)∘(AAᵀ)/n and Ub = Δᵀdiag(b)A/√n are exact without a sketch: they
are the default. The paper's sketch, its published scaling and its rank-one product are options, so
that what they cost in direction can be measured (`studies/natural_gradients/seng`).

The mathematics comes first, as functions of tensors. A layer that is applied at T positions (a
convolution; a linear layer along a sequence) has δ_i and a_i of shape (T, width), and its sample's
gradient is their sum over positions.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from degeneracy.checks import check_one_kind, coupled_layers
from degeneracy.config.values import Seed
from degeneracy.optimizers.kfac import shared_names
from degeneracy.optimizers.settings import MAX_RATE, Kind, OptimizerSettings
from degeneracy.patches import patches
from degeneracy.stepper import Logged, TorchStepper

SCALINGS = ("unbiased", "published")


class Terms(NamedTuple):
    """What the columns of a layer's U are made of."""

    inputs: Float[Tensor, "n T d_in"]  # a, with a last 1 where the layer has a bias
    deltas: Float[Tensor, "n T d_out"]  # δ = n·∂(mean loss)/∂output


# ---- mathematics ---------------------------------------------------------------------------------


def gram(terms: Terms) -> Float[Tensor, "n n"]:
    """UᵀU, the inner products of the samples' gradients over n: for T = 1 as (ΔΔᵀ)∘(AAᵀ)/n, else
    from the gradients, n·d_in·d_out numbers.

    Example:
        >>> inputs = torch.tensor([[[1.0, 2.0]], [[0.0, 1.0]]])
        >>> gram(Terms(inputs, torch.tensor([[[3.0]], [[-1.0]]])))  # gradients (3, 6) and (0, −1)
        tensor([[22.5000, -3.0000],
                [-3.0000,  0.5000]])
    """
    inputs, deltas = terms
    n, positions, _ = inputs.shape
    if positions == 1:
        a, delta = inputs[:, 0], deltas[:, 0]
        return (delta @ delta.T).mul_(a @ a.T).div_(n)
    gradients = (deltas.mT @ inputs).flatten(1)
    return (gradients @ gradients.T).div_(n)


def pulled(terms: Terms, gradient: Float[Tensor, "d_out d_in"]) -> Float[Tensor, " n"]:
    """Uᵀvec(g): each sample's gradient times g, over √n."""
    products = (terms.deltas @ gradient).mul_(terms.inputs)
    return products.sum((1, 2)) / math.sqrt(len(products))


def combined(terms: Terms, b: Float[Tensor, " n"]) -> Float[Tensor, "d_out d_in"]:
    """Ub as a matrix: the samples' gradients weighted by b, over √n."""
    weighted = (terms.deltas * b[:, None, None]).flatten(0, 1)
    return (weighted.T @ terms.inputs.flatten(0, 1)).div_(math.sqrt(len(b)))


def root_combined(terms: Terms, b: Float[Tensor, " n"]) -> Float[Tensor, "d_out d_in"]:
    """What the published code puts in place of Ub for large layers: the product of two sums,
    (Σ_i s_i√|b_i| δ_i)(Σ_i √|b_i| a_i)ᵀ/n^{3/2} with s_i the sign of b_i.

    It has rank one and no sample's own gradient: every δ_i meets every a_j, of which n pairs of n²
    belong together, so that the mean over pairs takes the place of the sum.
    """
    root = b.abs().sqrt()
    delta = (terms.deltas.sum(1) * (b.sign() * root)[:, None]).sum(0)
    a = (terms.inputs.sum(1) * root[:, None]).sum(0)
    return torch.outer(delta, a).div_(len(b) ** 1.5)


def sketched(
    terms: Terms,
    gradient: Float[Tensor, "d_out d_in"],
    q: int,
    scaling: str = "unbiased",
    generator: torch.Generator | None = None,
) -> tuple[Terms, Float[Tensor, "q_out q_in"]]:
    """q coordinates of a and q of δ, all of a side that is narrower, and the gradient's entries
    there.

    Args:
        terms: Of a layer.
        gradient: g.
        q: ≥ 1, at most the layer's larger width.
        scaling: "unbiased" multiplies a side of width d by √(d/q), so that the sketch's Gram matrix
            has mean UᵀU; "published" by d/q, which makes it d/q times as large a side, and the
            damping λ of the inner system in effect q/d as large.
        generator: Draws the coordinates, on the CPU; None: torch's own.

    Raises:
        ValueError: q out of its range, or another scaling.
    """
    d_out, d_in = gradient.shape
    if not 1 <= q <= max(d_out, d_in):
        raise ValueError(
            f"sketch = {q!r} given; allowed: from 1 to the width, here {max(d_out, d_in)}"
        )
    if scaling not in SCALINGS:
        raise ValueError(f"scaling = {scaling!r} given; allowed: {', '.join(SCALINGS)}")
    power = 0.5 if scaling == "unbiased" else 1.0
    columns, rows = (
        torch.randperm(d, generator=generator)[:q].to(gradient.device) for d in (d_in, d_out)
    )
    by_in, by_out = (d_in / len(columns)) ** power, (d_out / len(rows)) ** power
    few = Terms(terms.inputs[..., columns] * by_in, terms.deltas[..., rows] * by_out)
    return few, gradient[rows][:, columns] * (by_in * by_out)


def seng_direction(
    gradient: Float[Tensor, "d_out d_in"],
    terms: Terms,
    damping: float,
    *,
    sketch: int | None = None,
    scaling: str = "unbiased",
    root_trick: bool = False,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "d_out d_in"]:
    """d = (g − Ub)/λ with (λI + UᵀU)b = Uᵀg: of a layer, in units of g over those of λ.

    Args:
        gradient: g, of the mean loss; with the bias as its last column where there is one.
        terms: What U is made of.
        damping: λ > 0, in units of the squared gradient.
        sketch: Coordinates q of a and of δ by which b is found (`sketched`); None: all, exactly.
            Ub is never sketched.
        scaling: Of the sketch.
        root_trick: Whether `root_combined` takes the place of Ub.
        generator: Draws the sketch.

    Raises:
        ValueError: λ ≤ 0, a sketch out of its range, or λI + UᵀU is not positive definite.

    Example:
        >>> terms = Terms(torch.tensor([[[2.0]]]), torch.tensor([[[3.0]]]))  # one gradient, 6
        >>> seng_direction(torch.tensor([[6.0]]), terms, damping=0.5)  # 6/(0.5 + 36)
        tensor([[0.1644]])
    """
    _check_damping(damping)
    few, own = terms, gradient
    if sketch is not None:
        few, own = sketched(terms, gradient, sketch, scaling, generator)
    factor, failed = _factor(gram(few).double(), damping)
    if failed and gradient.dtype != torch.float64:  # for its rounding alone
        factor, failed = _factor(gram(Terms(*(part.double() for part in few))), damping)
    if failed:
        raise ValueError(
            f"λI + UᵀU is not positive definite at λ = {damping:.3g}: rounding in float64 left it"
            " an eigenvalue below −λ; take a larger λ"
        )
    b = torch.cholesky_solve(pulled(few, own).double()[:, None], factor)[:, 0].to(gradient.dtype)
    put_together = root_combined if root_trick else combined
    return (gradient - put_together(terms, b)).div_(damping)


def _factor(matrix: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """Cholesky's factor of λI + `matrix`, which is overwritten, and whether there is none."""
    matrix.diagonal().add_(damping)
    return torch.linalg.cholesky_ex(matrix)


# ---- layers --------------------------------------------------------------------------------------


def layer_terms(layer: nn.Module, inputs: Tensor, slopes: Tensor) -> Terms:
    """A layer's terms on a batch.

    Args:
        layer: Linear, or Conv2d as `check_layers` takes it.
        inputs: That it was given, (n, …).
        slopes: Gradient of the mean loss with respect to its output.
    """
    n = len(inputs)
    if isinstance(layer, nn.Conv2d):
        a = patches(layer, inputs).mT
        delta = slopes.flatten(2).mT
    else:
        a, delta = (x.reshape(n, -1, x.shape[-1]) for x in (inputs, slopes))
    if layer.bias is not None:
        a = torch.cat([a, a.new_ones(*a.shape[:-1], 1)], -1)
    return Terms(a, delta * n)


def check_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Name → layer, of all layers with trainable weights.

    Raises:
        ValueError: There are none, or one that SENG cannot step, which the message names.
    """
    layers, shared = {}, shared_names(model)
    for name, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        trained = {key for key, parameter in own.items() if parameter.requires_grad}
        if not trained:
            continue
        problem = _unfit(module)
        if not problem and trained != set(own):
            problem = f"trains {', '.join(sorted(trained))} alone"
        for key in own:
            if where := shared.get(f"{name}.{key}".lstrip(".")):
                problem = problem or f"has a {key} that is shared, {' and '.join(where)}"
        if problem:
            raise ValueError(
                f"SENG: the model's {name or 'module'}, {type(module).__name__}, {problem};"
                " allowed: Linear, and Conv2d of one group, trained as a whole, each with weights"
                " of its own"
            )
        layers[name] = module
    if not layers:
        raise ValueError("SENG: the model has no weights that require a gradient")
    for shown, _ in coupled_layers(model):
        raise ValueError(f"SENG: {shown} whose output depends on other samples; call its eval()")
    check_one_kind(dict(model.named_parameters()), (torch.float32, torch.float64))
    return layers


def _unfit(module: nn.Module) -> str:
    """Why a layer with weights has no such U; empty where it has one."""
    if type(module) is nn.Linear:
        return ""
    if type(module) is not nn.Conv2d:
        return "has weights of its own and no δ and a whose product is their gradient"
    return "" if module.groups == 1 else f"has {module.groups} groups"


def _check_damping(damping: float) -> None:
    if not 0 < damping < math.inf:
        raise ValueError(f"damping = {damping!r} given; allowed: > 0 and finite")


# ---- the optimizer -------------------------------------------------------------------------------


class SENG(torch.optim.Optimizer):
    """Gradient descent along each layer's damped empirical natural gradient, with momentum.

    w ← w − lr·m, m ← momentum·m + d, with d as `seng_direction` gives it for weight and bias
    together. The layers' inputs and slopes are noted inside `recording`, around forward and
    backward pass; outside of it the model has no hooks, so that it may be copied and evaluated.

    A layer whose gradient, inputs or direction has a NaN or an infinity stays as it is, and its
    momentum, too; `num_skipped_updates` counts its tensors. A gradient None leaves a layer as it
    is.

    State of a tensor: `momentum_buffer` and `num_skipped`, of the first one also `step`, from which
    and `seed` the sketches are drawn: so training goes on along the same path from `state_dict()`.

    Memory beside the momentum: inputs and slopes of all layers until the step, n² numbers, and for
    layers at several positions n times their weights.

    Args:
        model: Of Linear and Conv2d layers, trained on a mean over samples; each layer is used once
            in a forward pass.
        lr: Learning rate > 0; a step is at most lr/λ times the gradient.
        momentum: In [0, 1).
        damping: λ > 0, in units of the squared gradient.
        sketch: Coordinates q, from 1 to the largest width of the model; None: exact.
        scaling: "unbiased" or "published".
        root_trick: As in `seng_direction`.
        seed: Of the sketches.

    Raises:
        ValueError: A hyper-parameter out of its range, a second group, or a layer that has no such
            U, such as an embedding.

    Example:
        >>> model, inputs, labels = nn.Linear(3, 2), torch.eye(3), torch.tensor([0, 1, 1])
        >>> optimizer = SENG(model, lr=0.1, damping=0.1)
        >>> for _ in range(60):
        ...     optimizer.zero_grad()
        ...     with optimizer.recording():
        ...         loss = nn.functional.cross_entropy(model(inputs), labels)
        ...         loss.backward()
        ...     optimizer.step()
        >>> loss.item() < 0.2
        True
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float,
        momentum: float = 0,
        damping: float = 1.0,
        sketch: int | None = None,
        scaling: str = "unbiased",
        root_trick: bool = False,
        seed: int = 0,
    ):
        self.layers = check_layers(model)
        self._seen: dict[str, tuple[Tensor, Tensor | None]] = {}
        hyper = {"lr": lr, "momentum": momentum, "damping": damping, "sketch": sketch}
        hyper |= {"scaling": scaling, "root_trick": root_trick, "seed": seed}
        super().__init__([p for layer in self.layers.values() for p in layer.parameters()], hyper)

    def add_param_group(self, param_group: dict) -> None:
        """Takes the model's weights as the one group; raises ValueError as the constructor does."""
        if self.param_groups:
            raise ValueError("SENG takes no second group: a layer's δ and a are of its model")
        super().add_param_group(param_group)
        _check_group(self.param_groups[0], self.layers)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Notes what each layer is given in the forward pass inside, and the slope of the loss with
        respect to its output in the backward pass inside; the last of several counts.

        Raises:
            ValueError: A layer is used twice in a forward pass.
        """
        self._seen = {}

        def noting(name: str) -> Callable:
            def note(layer: nn.Module, given: tuple, output: Tensor) -> None:
                if name in self._seen:
                    raise ValueError(
                        f"SENG: the model's {name or 'module'} is used twice in a forward pass;"
                        " allowed: once, for its δ and a are of one use"
                    )
                self._seen[name] = given[0].detach(), None
                output.register_hook(lambda slope: self._put_slope(name, slope))

            return note

        handles = [layer.register_forward_hook(noting(name)) for name, layer in self.layers.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _put_slope(self, name: str, slope: Tensor) -> None:
        if name in self._seen:
            self._seen[name] = self._seen[name][0], slope.detach()

    @torch.no_grad()
    def step(self, closure: Callable | None = None):
        """One step with what `recording` noted, returning the closure's loss.

        Raises:
            RuntimeError: A layer has a gradient, and forward or backward pass were not recorded.
            ValueError: As `seng_direction`.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        group = self.param_groups[0]
        first = self.state[group["params"][0]]
        first["step"] = first.get("step", torch.tensor(0)) + 1
        generator = torch.Generator().manual_seed((group["seed"] << 32) + int(first["step"]))
        for name, layer in self.layers.items():
            if layer.weight.grad is not None:
                self._step_layer(name, layer, group, generator)
        self._seen = {}
        return loss

    def seen(self, name: str) -> tuple[Float[Tensor, "d_out d_in"], Terms]:
        """The gradient of a layer's weight and bias, and its terms, as `recording` noted them.

        Raises:
            RuntimeError: They were not recorded.
        """
        inputs, slopes = self._seen.get(name, (None, None))
        if slopes is None:
            raise RuntimeError(
                f"SENG: {name or 'the model'} has a gradient that was not recorded; put forward and"
                " backward pass inside `with optimizer.recording():`"
            )
        layer = self.layers[name]
        gradients = [parameter.grad for parameter in layer.parameters()]
        parts = [g.flatten(1) if g.ndim > 1 else g[:, None] for g in gradients]
        return torch.cat(parts, 1), layer_terms(layer, inputs, slopes)

    def _step_layer(
        self, name: str, layer: nn.Module, group: dict, generator: torch.Generator
    ) -> None:
        gradient, terms = self.seen(name)
        direction = None
        if all(bool(x.sum().isfinite()) for x in (gradient, *terms)):
            how = {key: group[key] for key in ("damping", "scaling", "root_trick")}
            q = None if group["sketch"] is None else min(group["sketch"], max(gradient.shape))
            direction = seng_direction(gradient, terms, sketch=q, generator=generator, **how)
        sound = direction is not None and bool(direction.sum().isfinite())
        first = 0
        for parameter in layer.parameters():
            last = first + parameter[0].numel()
            piece = direction[:, first:last].reshape(parameter.shape) if sound else None
            self._move(parameter, piece, group)
            first = last

    def _move(self, parameter: Tensor, direction: Tensor | None, group: dict) -> None:
        """A step along a direction; counts one that there is not."""
        state = self.state[parameter]
        state.setdefault("num_skipped", torch.zeros((), dtype=torch.int64))
        if direction is None:
            state["num_skipped"] += 1
            return
        if group["momentum"]:
            if "momentum_buffer" in state:
                state["momentum_buffer"].mul_(group["momentum"]).add_(direction)
            else:
                state["momentum_buffer"] = direction.clone()
            direction = state["momentum_buffer"]
        parameter.sub_(direction, alpha=group["lr"])

    def load_state_dict(self, state_dict: dict) -> None:
        """As every optimizer's; counters stay integers."""
        super().load_state_dict(state_dict)
        for state in self.state.values():
            for key in {"num_skipped", "step"} & state.keys():
                state[key] = state[key].to("cpu", torch.int64)

    @property
    def num_skipped_updates(self) -> int:
        """How often a tensor was left as it was because something was not finite, summed over
        tensors.
        """
        return sum(int(state.get("num_skipped", 0)) for state in self.state.values())


def _check_group(group: dict, layers: dict[str, nn.Module]) -> None:
    """Refuses hyper-parameters out of range, each with what is allowed."""
    q, widest = group["sketch"], max(max(_widths(layer)) for layer in layers.values())
    allowed = {
        "lr": ("> 0 and finite", 0 < group["lr"] < math.inf),
        "momentum": ("in [0, 1)", 0 <= group["momentum"] < 1),
        "damping": ("> 0 and finite", 0 < group["damping"] < math.inf),
        "sketch": (
            f"None, or from 1 to the model's largest width, {widest}",
            q is None or 1 <= q <= widest,
        ),
        "scaling": (" or ".join(SCALINGS), group["scaling"] in SCALINGS),
        "seed": ("from 0 to 2³² − 1", 0 <= group["seed"] < 2**32),
    }
    problems = [
        f"{key} = {group[key]!r} given; allowed: {said}"
        for key, (said, fits) in allowed.items()
        if not fits
    ]
    if problems:
        raise ValueError("SENG: " + "; ".join(problems))


def _widths(layer: nn.Module) -> tuple[int, int]:
    """Of δ and of a, the bias's 1 included."""
    return len(layer.weight), layer.weight[0].numel() + (layer.bias is not None)


# ---- in a run ------------------------------------------------------------------------------------


class SengStepper(TorchStepper):
    """A `Stepper` of SENG, which records its own passes."""

    def step(self, inputs: Tensor, targets: Tensor) -> Logged:
        """Forward, backward, and the step."""
        (optimizer,) = self.optimizers
        optimizer.zero_grad()
        with optimizer.recording():
            loss = self.loss_fn(self.model(inputs), targets)
            loss.backward()
        optimizer.step()
        return {"loss": loss.detach()}


class Settings(OptimizerSettings):
    """Of a kind `seng`; its defaults are exact."""

    lr: float = Field(
        0.1, gt=0, le=MAX_RATE, description="Learning rate; a step is at most lr/λ gradients."
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum, a fraction.")
    damping: float = Field(1.0, gt=0, description="Damping λ of the Fisher matrix, gradient².")
    sketch: int | None = Field(
        None,
        ge=1,
        description=(
            "Coordinates of inputs and of slopes from which the inner system is made, at most the"
            " model's largest width; null: all, exactly."
        ),
    )
    scaling: Literal["unbiased", "published"] = Field(
        "unbiased", description="Of the sketch: unbiased, or as the published code scales it."
    )
    root_trick: bool = Field(
        False, description="Whether a product of two sums takes the place of Ub, as published."
    )
    seed: Seed = Field(0, description="Seed of the sketches.")


def build(model: nn.Module, loss_fn: Callable, settings: Settings) -> SengStepper:
    """The optimizer over all layers of `model`.

    Raises:
        ValueError: A layer that is neither Linear nor Conv2d, or a sketch above the widths.
    """
    how = settings.model_dump(exclude={"swap_lr"})
    return SengStepper(model, loss_fn, [SENG(model, **how)])


KIND = Kind(Settings, build)
