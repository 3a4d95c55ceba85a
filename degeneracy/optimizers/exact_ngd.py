"""What is the exact natural gradient of a small classifier, the yardstick for online NGD
(`ngd.py`)?

Amari, "Natural gradient works efficiently in learning", Neural Computation 10:251 (1998): steepest
descent in the distance between predictive distributions follows F⁻¹∇L, with F = E[s sᵀ] the Fisher
matrix of the scores s = ∇_w log p(y|x, w). Here F is dense, over all weights of all layers, and F +
κI is inverted by Cholesky's method: p² numbers for p weights, meant for some thousand. `ExactNGD`
only keeps a running F and the momentum. Of a single batch's empirical F, with the n scores over √n
as the rows of S, the direction is also `natural.natural_direction(S, r, damping=κ)` for r of n
entries −1/√n, cheaper where n is below p; a running F has no such rows, so it is not used here.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from degeneracy.checks import check_one_kind, coupled_layers, random_layers
from degeneracy.config.values import nesterov_has_momentum
from degeneracy.optimizers.settings import MAX_RATE, Kind, OptimizerSettings
from degeneracy.stepper import Logged, TorchStepper
from degeneracy.weights import named

KINDS = ("expected", "sampled", "empirical")
MAX_WEIGHTS = 20_000  # F then takes 3.2 GB in float64
CHUNK_BYTES = 2**27  # of scores held at once; the backward pass makes it some three times that


def fisher_matrix(
    model: nn.Module,
    inputs: Float[Tensor, "n ..."],
    labels: Int[Tensor, " n"] | None = None,
    kind: str = "expected",
    generator: torch.Generator | None = None,
    chunk_size: int | None = None,
) -> Float[Tensor, "p p"]:
    """Dense Fisher matrix F of a softmax classifier: the mean over samples of outer products of
    scores.

    With J the Jacobian of a sample's logits, q = softmax(logits) and e_y the y-th unit vector, the
    score of label y is s_y = Jᵀ(e_y − q). A sample contributes

    - `"expected"`: Σ_y q_y s_y s_yᵀ = Jᵀ(diag(q) − q qᵀ)J, the Fisher matrix of the model's own
      predictions and, for this loss, the generalised Gauss-Newton matrix (Martens,
      arXiv:1412.1193);
    - `"sampled"`: s_y s_yᵀ with one y drawn from q, an unbiased estimate of it;
    - `"empirical"`: s_y s_yᵀ with the given label, in general no estimate of it (Kunstner et al.,
      arXiv:1905.12558).

    Args:
        model: From inputs (n, …) to logits (n, classes), each sample by itself; used in the mode it
            is in.
        inputs: On the model's device.
        labels: In 0 … classes − 1; read for `"empirical"` only.
        kind: One of `KINDS`.
        generator: Draws the labels of `"sampled"`, on the model's device; None for torch's own.
        chunk_size: Samples whose scores are held at once, which does not change F; None for
            `CHUNK_BYTES` of scores.

    Returns:
        F in the model's type, in units of 1/weight². Its axes are the entries of the parameters
        that require a gradient, flattened, in the order of `named_parameters`.

    Raises:
        ValueError: A model without or with too many trainable weights, or whose forward pass is
            random or couples samples; no samples; an unknown kind; unfit labels; outputs that are
            not finite logits.

    Example:
        >>> model = nn.Linear(1, 2, bias=False)
        >>> _ = nn.init.zeros_(model.weight)  # both labels have probability ½
        >>> fisher_matrix(model, torch.tensor([[2.0], [0.0]]))  # the mean of x²·[[¼, −¼], [−¼, ¼]]
        tensor([[ 0.5000, -0.5000],
                [-0.5000,  0.5000]])
    """
    if kind not in KINDS:
        raise ValueError(f"kind = {kind!r}, allowed: {' or '.join(KINDS)}")
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size = {chunk_size!r}, allowed: None or an integer ≥ 1")
    params = {name: param.detach() for name, param in _trainable(model).items()}
    num_weights, itemsize = (
        sum(p.numel() for p in params.values()),
        next(iter(params.values())).itemsize,
    )
    probabilities = _probabilities(model, inputs)
    if kind == "expected":
        labels = None
    elif kind == "sampled":
        labels = torch.multinomial(probabilities, 1, generator=generator).squeeze(1)
    else:
        _check_labels(labels, probabilities)
    residuals = _residuals(probabilities, labels)
    if chunk_size is None:
        chunk_size = max(1, CHUNK_BYTES // (residuals.shape[1] * num_weights * itemsize))
    fisher = probabilities.new_zeros(num_weights, num_weights)
    for x, vectors in zip(inputs.split(chunk_size), residuals.split(chunk_size), strict=True):
        scores = _pulled_back(model, params, x, vectors).flatten(0, 1)
        fisher.addmm_(scores.T, scores)
    return fisher.div_(len(inputs))


def _residuals(
    probabilities: Float[Tensor, "n classes"], labels: Tensor | None
) -> Float[Tensor, "n k classes"]:
    """e_y − q of the given labels (k = 1), or without labels √q_y (e_y − q) of every label (k =
    classes).
    """
    unit_vectors = torch.eye(probabilities.shape[1]).to(probabilities)
    if labels is not None:
        return (unit_vectors[labels.long()] - probabilities)[:, None]
    return probabilities.sqrt()[:, :, None] * (unit_vectors - probabilities[:, None])


def _pulled_back(
    model: nn.Module,
    params: dict[str, Tensor],
    inputs: Float[Tensor, "n ..."],
    vectors: Float[Tensor, "n k classes"],
) -> Float[Tensor, "n k p"]:
    """Jᵀv for each sample's Jacobian J of the logits and each of its k vectors v."""

    def rows(x: Tensor, vectors: Tensor) -> dict[str, Tensor]:
        _, transposed_jacobian = vjp(
            lambda params: functional_call(model, params, (x[None],))[0], params
        )
        return vmap(lambda v: transposed_jacobian(v)[0])(vectors)

    return torch.cat([part.flatten(2) for part in vmap(rows)(inputs, vectors).values()], dim=2)


def smoothing(fisher: Float[Tensor, "p p"], alpha: float) -> Float[Tensor, ""]:
    """κ = (α/p)·tr F, the multiple of the identity added to F before it is inverted, as in
    `ngd.py`.
    """
    return alpha / len(fisher) * fisher.trace()


def natural_gradient(
    gradient: Float[Tensor, " p"], fisher: Float[Tensor, "p p"], kappa: float | Float[Tensor, ""]
) -> Float[Tensor, " p"]:
    """(F + κI)⁻¹ g for κ > 0 by Cholesky's method in float64; in the gradient's type, in units of
    weight.

    Raises:
        ValueError: Shapes that do not fit, κ out of range, or F + κI not positive definite.

    Example:
        >>> fisher = torch.diag(torch.tensor([3.0, 0.0]))
        >>> natural_gradient(torch.tensor([1.0, 1.0]), fisher, kappa=1.0)
        tensor([0.2500, 1.0000])
    """
    if gradient.ndim != 1 or fisher.shape != 2 * gradient.shape:
        shapes = f"{tuple(gradient.shape)} and {tuple(fisher.shape)}"
        raise ValueError(
            f"gradient and Fisher matrix have shapes {shapes}; allowed: (p,) and (p, p)"
        )
    if not 0 < kappa < math.inf:
        raise ValueError(
            f"kappa = {float(kappa)}, allowed: > 0 and finite; F = 0 where all predictions are"
            " certain"
        )
    smoothed = fisher.to(torch.float64, copy=True)
    smoothed.diagonal().add_(kappa)
    factor, failed = torch.linalg.cholesky_ex(smoothed)
    if failed:
        raise ValueError(
            f"F + κI is not positive definite at κ = {kappa:.3g}: F is not finite, or rounding left"
            " it an eigenvalue below −κ; take a larger κ, or a model in float64"
        )
    return torch.cholesky_solve(gradient.double()[:, None], factor)[:, 0].to(gradient.dtype)


def split_by_parameter(model: nn.Module, vector: Float[Tensor, " p"]) -> dict[str, Tensor]:
    """Views of `vector`, ordered as `fisher_matrix` orders it, by names and in shapes of the
    trainable parameters.
    """
    return named(vector, _trainable(model))


def cosines(a: dict[str, Tensor], b: dict[str, Tensor]) -> dict[str, Float[Tensor, ""]]:
    """⟨a, b⟩/(‖a‖‖b‖) in float64, of tensors by parameter name: tensor by tensor, layer by layer,
    and of everything.

    Returns:
        By parameter (`layers.1.weight`), by the module that holds it (`layers.1`: weight and bias
        as one vector), and under `""`, the whole model's name in `named_modules`. NaN where a part
        of `a` or `b` is zero.

    Raises:
        ValueError: Names or shapes of `a` and `b` differ.

    Example:
        >>> a = {"1.weight": torch.tensor([[3.0]]), "1.bias": torch.tensor([4.0])}
        >>> b = {"1.weight": torch.tensor([[2.0]]), "1.bias": torch.tensor([0.0])}
        >>> {part: round(cosine.item(), 3) for part, cosine in cosines(a, b).items()}
        {'1.weight': 1.0, '1.bias': nan, '1': 0.6, '': 0.6}
    """
    shapes_a, shapes_b = (
        {name: tuple(tensor.shape) for name, tensor in tensors.items()} for tensors in (a, b)
    )
    if shapes_a != shapes_b:
        raise ValueError(
            f"cosines of {shapes_a} with {shapes_b}; allowed: the same names with the same shapes"
        )
    layer_of = {name: name.rpartition(".")[0] for name in a}
    layers = {layer: [name for name in a if layer_of[name] == layer] for layer in layer_of.values()}
    parts = {name: [name] for name in a} | layers | {"": list(a)}

    def stacked(tensors: dict[str, Tensor], names: list[str]) -> Float[Tensor, " entries"]:
        return torch.cat([tensors[name].detach().double().flatten() for name in names])

    pairs = {part: (stacked(a, names), stacked(b, names)) for part, names in parts.items()}
    return {part: x @ y / (x.norm() * y.norm()) for part, (x, y) in pairs.items()}


class ExactNGD(torch.optim.Optimizer):
    """Gradient descent along exact natural gradients: w ← w − lr·(F + κI)⁻¹∇L with κ = (α/p)·tr F.

    `observe` brings the running Fisher matrix F up to date, `step` uses it. Nothing stands before
    the inverse, so `lr` has no unit, and lr = 1 at small κ is a Gauss-Newton step; where
    predictions grow certain, F and κ vanish and a step can be huge: take a larger α. With
    `keep_norm` each tensor's direction gets the norm of its gradient, as `ngd.NGD`'s does: learning
    rates then compare with NGD's and SGD's, and α → ∞ is SGD. Momentum is that of
    `torch.optim.SGD`.

    Where the gradient or the direction has a NaN or an infinity, or κ = 0 (all predictions are
    certain, F = 0, and there is no direction), a step leaves all as it is, momentum too;
    `num_skipped_updates` counts its tensors.

    It steps the parameters that require a gradient when it is made. A gradient None counts as zero;
    where all are, nothing moves. State: `momentum_buffer` of each parameter, and with the first one
    `fisher` (p, p) and, after a step was left out, `num_skipped`. All are tensors of the model's
    type, so `state_dict()` saves and loads again; a `generator` is the caller's to save.

    Args:
        model: A softmax classifier that `fisher_matrix` takes, trained on the mean cross-entropy in
            nats.
        lr: Learning rate, > 0.
        momentum: In [0, 1).
        nesterov: Needs momentum > 0.
        alpha: Smoothing α > 0.
        eta: Weight η of the newest F in the running one, in (0, 1]: F ← η F_new + (1 − η) F; the
            first is taken whole.
        kind: Which Fisher matrix, one of `KINDS`.
        keep_norm: Whether each tensor's direction has the norm of its gradient.
        generator: Draws the labels of kind `"sampled"`.

    Raises:
        ValueError: A hyper-parameter out of its range, a second group, or weights that
            `fisher_matrix` refuses.

    Example:
        >>> model, inputs, labels = nn.Linear(3, 2), torch.eye(3), torch.tensor([0, 1, 1])
        >>> optimizer = ExactNGD(model, lr=1.0, alpha=0.1)
        >>> for _ in range(10):
        ...     optimizer.zero_grad()
        ...     loss = nn.functional.cross_entropy(model(inputs), labels)
        ...     loss.backward()
        ...     _ = optimizer.observe(inputs, labels)
        ...     optimizer.step()
        >>> loss.item() < 0.01
        True
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float,
        momentum: float = 0,
        nesterov: bool = False,
        alpha: float = 4.0,
        eta: float = 1.0,
        kind: str = "expected",
        keep_norm: bool = False,
        generator: torch.Generator | None = None,
    ):
        self.model, self.generator = model, generator
        hyper = {"lr": lr, "momentum": momentum, "nesterov": nesterov, "alpha": alpha, "eta": eta}
        super().__init__(
            list(_trainable(model).values()), hyper | {"kind": kind, "keep_norm": keep_norm}
        )

    def add_param_group(self, param_group: dict) -> None:
        """Takes the model's weights as the one group; raises ValueError as the constructor does."""
        if self.param_groups:
            raise ValueError(
                "ExactNGD takes no second group: its Fisher matrix is of all the model's weights"
                " together"
            )
        super().add_param_group(param_group)
        _check_group(self.param_groups[0])

    @property
    def fisher(self) -> Float[Tensor, "p p"] | None:
        """The running Fisher matrix; None before the first `observe`."""
        return self.state.get(self.param_groups[0]["params"][0], {}).get("fisher")

    @torch.no_grad()
    def observe(
        self, inputs: Float[Tensor, "n ..."], labels: Int[Tensor, " n"] | None = None
    ) -> bool:
        """Brings F up to date, before `step`, by the step's own batch or any other; raises as
        `fisher_matrix` does.

        Returns:
            Whether the newest matrix is finite; one that is not leaves F as it was.
        """
        group = self.param_groups[0]
        newest = fisher_matrix(self.model, inputs, labels, group["kind"], self.generator)
        if not newest.isfinite().all():
            return False
        if self.fisher is None:
            self.state[group["params"][0]]["fisher"] = newest
        else:
            self.fisher.lerp_(newest, group["eta"])
        return True

    def skip(self) -> None:
        """Counts a step that is left out."""
        params = self.param_groups[0]["params"]
        state = self.state[params[0]]
        state.setdefault("num_skipped", params[0].new_zeros(()))
        state["num_skipped"] += len(params)

    @property
    def num_skipped_updates(self) -> int:
        """How often a tensor was left as it was, a whole model's at a time."""
        first = self.param_groups[0]["params"][0]
        return int(self.state.get(first, {}).get("num_skipped", 0))

    @torch.no_grad()
    def step(self, closure=None):
        """One step, returning the closure's loss; RuntimeError before `observe`, ValueError if F +
        κI is not positive definite.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        group = self.param_groups[0]
        params = group["params"]
        if all(param.grad is None for param in params):
            return loss
        if self.fisher is None:
            raise RuntimeError(
                "ExactNGD has no Fisher matrix yet; call observe(inputs, labels) before step()"
            )
        gradients = [
            torch.zeros_like(param) if param.grad is None else param.grad for param in params
        ]
        directions = self._directions(gradients)
        if directions is None:
            self.skip()
            return loss
        for param, step in zip(params, directions, strict=True):
            state = self.state[param]
            if group["momentum"]:
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = step.clone()
                else:
                    state["momentum_buffer"].mul_(group["momentum"]).add_(step)
                buffer = state["momentum_buffer"]
                step = (
                    torch.add(step, buffer, alpha=group["momentum"])
                    if group["nesterov"]
                    else buffer
                )
            param.sub_(step, alpha=group["lr"])
        return loss

    def _directions(self, gradients: list[Tensor]) -> list[Tensor] | None:
        """Of each parameter, in its shape; None where they are not finite or there are none."""
        group = self.param_groups[0]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        kappa = smoothing(self.fisher, group["alpha"])
        if not (flat.isfinite().all() and 0 < kappa < math.inf):
            return None
        turned = natural_gradient(flat, self.fisher, kappa)
        pieces = turned.split([gradient.numel() for gradient in gradients])
        found = [piece.view_as(g) for piece, g in zip(pieces, gradients, strict=True)]
        if group["keep_norm"]:
            norms = [(g.norm(), piece.norm()) for g, piece in zip(gradients, found, strict=True)]
            found = [
                piece * torch.where(norm > 0, kept / norm, 1.0)
                for piece, (kept, norm) in zip(found, norms, strict=True)
            ]
        return found if all(bool(piece.isfinite().all()) for piece in found) else None


def _trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that require a gradient; raises ValueError where they have no dense Fisher
    matrix.
    """
    params = {name: param for name, param in model.named_parameters() if param.requires_grad}
    size = sum(param.numel() for param in params.values())
    if size == 0:
        raise ValueError(
            "the model has no weights that require a gradient, so it has no Fisher matrix"
        )
    if size > MAX_WEIGHTS:
        raise ValueError(
            f"the model has {size:,} trainable weights, allowed: at most {MAX_WEIGHTS:,}; its"
            f" Fisher matrix would take {size**2 * 8 / 1e9:,.1f} GB in float64; take a smaller"
            " model"
        )
    check_one_kind(params, (torch.float32, torch.float64))
    return params


@torch.no_grad()
def _probabilities(
    model: nn.Module, inputs: Tensor, batch_size: int = 2000
) -> Float[Tensor, "n classes"]:
    """softmax(logits); raises ValueError where p(y|x, w) is no function of x and w, or there is
    none.
    """
    if len(inputs) == 0:
        raise ValueError("inputs are empty; allowed: at least one sample")
    for shown, _ in (*random_layers(model), *coupled_layers(model)):
        raise ValueError(
            f"{shown} whose output is random or depends on other samples, so that no sample has a"
            " score of its own; call its eval() or replace it"
        )
    logits = torch.cat([model(batch) for batch in inputs.split(batch_size)])
    if logits.ndim != 2 or len(logits) != len(inputs) or logits.shape[1] < 2:
        shape = tuple(logits.shape)
        raise ValueError(
            f"outputs have shape {shape}; allowed: ({len(inputs)}, classes), logits of ≥ 2 classes"
        )
    if not logits.isfinite().all():
        raise ValueError(
            "the model's logits are not all finite, so there are no predictions to take scores of"
        )
    return logits.softmax(dim=1)


def _check_labels(labels: Tensor | None, probabilities: Float[Tensor, "n classes"]) -> None:
    num_samples, num_classes = probabilities.shape
    if labels is None:
        raise ValueError(
            'kind "empirical" needs labels; give them, or take kind "expected" or "sampled"'
        )
    if labels.shape != (num_samples,) or labels.is_floating_point():
        shown = f"{labels.dtype} of shape {tuple(labels.shape)}"
        raise ValueError(
            f"labels are {shown}; allowed: integers of shape ({num_samples},), one an input"
        )
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"labels span {labels.min()} to {labels.max()}; allowed: 0 to {num_classes - 1}, the"
            " classes"
        )


def _check_group(group: dict) -> None:
    """Refuses hyper-parameters out of range, each with what is allowed."""
    allowed = {
        "lr": ("> 0 and finite", 0 < group["lr"] < math.inf),
        "momentum": ("in [0, 1)", 0 <= group["momentum"] < 1),
        "nesterov": ("True only with momentum > 0", not group["nesterov"] or group["momentum"] > 0),
        "alpha": ("> 0 and finite", 0 < group["alpha"] < math.inf),
        "eta": ("in (0, 1]", 0 < group["eta"] <= 1),
        "kind": (" or ".join(KINDS), group["kind"] in KINDS),
    }
    problems = [
        f"{key} = {group[key]!r}, allowed: {rule}"
        for key, (rule, holds) in allowed.items()
        if not holds
    ]
    if problems:
        raise ValueError("ExactNGD: " + "; ".join(problems))


# ---- in a run ------------------------------------------------------------------------------------


class ExactStepper(TorchStepper):
    """A `Stepper` of `ExactNGD`, whose Fisher matrix is of the step's own batch.

    Where loss, outputs, gradient or the batch's matrix are not finite, nothing moves, the running
    matrix neither, and the step is counted as skipped; where `ExactNGD.step` skips, the running
    matrix has seen the batch.

    Args:
        num_images: The batch's first samples, of which the matrix is; None: all.

    Attributes:
        hyper: `num_images`, for descriptions.
    """

    def __init__(
        self, model: nn.Module, loss_fn: Callable, optimizer: ExactNGD, num_images: int | None
    ):
        super().__init__(model, loss_fn, [optimizer])
        self.num_images = num_images
        self.hyper = {"num_images": num_images}

    def step(self, inputs: Tensor, targets: Tensor) -> Logged:
        """Forward, backward, the Fisher matrix, and the step."""
        (optimizer,) = self.optimizers
        optimizer.zero_grad()
        outputs = self.model(inputs)
        loss = self.loss_fn(outputs, targets)
        loss.backward()
        few = inputs[: self.num_images], targets[: self.num_images]
        sound = self.is_finite(loss) and bool(outputs.isfinite().all())
        if sound and optimizer.observe(*few):
            optimizer.step()
        else:
            optimizer.skip()
        return {"loss": loss.detach()}


class Settings(OptimizerSettings):
    """Of a kind `exact_ngd`, for models of at most 20,000 weights."""

    rules = (nesterov_has_momentum(),)

    lr: float = Field(
        0.01, gt=0, le=MAX_RATE, description="Learning rate; 1 is a whole step (no unit)."
    )
    momentum: float = Field(0.0, ge=0, lt=1, description="Momentum, a fraction.")
    nesterov: bool = Field(False, description="Nesterov's form of momentum; needs momentum > 0.")
    alpha: float = Field(
        0.1, gt=0, description="Smoothing α: κ = (α/p)·tr F is added to the Fisher matrix F."
    )
    eta: float = Field(
        0.05, gt=0, le=1, description="Weight η of the newest Fisher matrix in the running one."
    )
    fisher: Literal["expected", "empirical"] = Field(
        "expected", description="Fisher matrix of the model's own labels, or of those given."
    )
    keep_norm: bool = Field(
        False, description="Whether each tensor's direction has the norm of its gradient."
    )
    num_images: int | None = Field(
        50, ge=1, description="Samples of a batch in the newest Fisher matrix; null: all."
    )


def build(model: nn.Module, loss_fn: Callable, settings: Settings) -> ExactStepper:
    """The optimizer over all weights of `model`.

    Raises:
        ValueError: The model has too many weights.
    """
    how = settings.model_dump(exclude={"swap_lr", "fisher", "num_images"})
    optimizer = ExactNGD(model, kind=settings.fisher, **how)
    return ExactStepper(model, loss_fn, optimizer, settings.num_images)


KIND = Kind(Settings, build)
