"""What are an animal's loss, gradient, Hessian and Fisher information, by plain autograd?

In float64, over the whole data set at once, as dense tensors over the trainable parameters in the
order of `named_parameters`. Independent of the project, of `torch.func` and of `vmap`: loops over
`torch.autograd.grad`, with kernels that can be differentiated twice.

The loss L is `loss_fn` of the whole data set, so a mean weighted by classes or over what is not
ignored is Σ wᵢ lᵢ / Σ wᵢ over the data set; plus `penalty`. F is of the data's term alone.
"""

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from zoo import Animal


def dense_weights(animal: Animal) -> Tensor:
    """The trainable weights, flat: (d,)."""
    return torch.cat([p.detach().flatten() for p in _trained(_built(animal))])


def dense_loss(animal: Animal, weights: Tensor | None = None) -> Tensor:
    """L, a scalar; at `weights` (d,), or at the animal's own."""
    with _plain_kernels():
        return _loss(animal, _built(animal, weights)).detach()


def dense_gradient(animal: Animal, weights: Tensor | None = None) -> Tensor:
    """∇L: (d,)."""
    model = _built(animal, weights)
    with _plain_kernels():
        return _gradient(_loss(animal, model), _trained(model)).detach()


def dense_hessian(animal: Animal, weights: Tensor | None = None) -> Tensor:
    """∇²L, one row at a time: (d, d)."""
    model = _built(animal, weights)
    with _plain_kernels():
        gradient = _gradient(_loss(animal, model), _trained(model), create_graph=True)
        return _jacobian(gradient, _trained(model))


def dense_fisher(animal: Animal, kind: str, weights: Tensor | None = None) -> Tensor | None:
    """F = 1/T Σ over the T terms of the loss: (d, d); None where it is not defined.

    A term of a categorical loss is a prediction that is not ignored, of a Bernoulli one an output,
    of a Gaussian one a sample.

    Args:
        kind: "expected", which is Jᵀ (∇² of the term in the outputs) J, or "empirical", which is
            g gᵀ of the term's gradient g.
    """
    if kind not in animal.fishers:
        return None
    model = _built(animal, weights)
    inputs, targets = _double(animal.data)
    with _plain_kernels():
        outputs = _outputs(animal, model, inputs)
        jacobian = _jacobian(outputs.flatten(), _trained(model))
    outputs = outputs.detach()
    jacobian = jacobian.view(*outputs.shape, -1)
    terms = {"categorical": _categorical, "bernoulli": _bernoulli, "gaussian": _gaussian}
    ignored = getattr(animal.loss_fn, "ignore_index", -100)
    weight = getattr(animal.loss_fn, "weight", None)
    weight = (
        torch.ones(outputs.shape[1]) if weight is None or animal.family != "categorical" else weight
    )
    return terms[animal.family](outputs, targets, jacobian, kind, ignored, weight.double())


def _categorical(outputs, targets, jacobian, kind: str, ignored: int, weight: Tensor) -> Tensor:
    """Classes along dimension 1: (n, C, …); a term counts by the weight of its label."""
    logits = outputs.movedim(1, -1).flatten(0, -2)  # (T, C)
    jacobian = jacobian.movedim(1, -2).flatten(0, -3)  # (T, C, d)
    if not targets.is_floating_point():  # soft targets count all, and F does not see them
        counted = targets.flatten() != ignored
        logits, jacobian = logits[counted], jacobian[counted]
        labels = targets.flatten()[counted]
        weights = weight[labels]
    else:
        labels, weights = logits.argmax(1), torch.ones(len(logits), dtype=logits.dtype)
    total = torch.zeros(jacobian.shape[-1], jacobian.shape[-1], dtype=jacobian.dtype)
    for row, label, j, w in zip(logits.softmax(1), labels, jacobian, weights, strict=True):
        if kind == "expected":
            total += w * j.T @ (row.diag() - row.outer(row)) @ j
        else:
            residual = row.clone()
            residual[label] -= 1
            total += w * (residual @ j).outer(residual @ j)
    return total / weights.sum()


def _bernoulli(outputs, targets, jacobian, kind: str, *_) -> Tensor:
    p, rows = outputs.sigmoid().flatten(), jacobian.flatten(0, -2)  # (T,), (T, d)
    scale = p * (1 - p) if kind == "expected" else (p - targets.flatten()).square()
    return rows.T @ (scale[:, None] * rows) / len(p)


def _gaussian(outputs, targets, jacobian, kind: str, *_) -> Tensor:
    """The loss of a sample is the mean of its K squared errors."""
    rows, errors = jacobian.flatten(1, -2), (outputs - targets).flatten(1)  # (n, K, d), (n, K)
    n, k = errors.shape
    if kind == "expected":
        return 2 / k * torch.einsum("nki,nkj->ij", rows, rows) / n
    gradients = 2 / k * torch.einsum("nk,nki->ni", errors, rows)
    return gradients.T @ gradients / n


def _built(animal: Animal, weights: Tensor | None = None) -> nn.Module:
    model = (animal.twin or animal.build)().double()
    if weights is not None:
        trained = _trained(model)
        pieces = weights.split([p.numel() for p in trained])
        with torch.no_grad():
            for parameter, piece in zip(trained, pieces, strict=True):
                parameter.copy_(piece.view_as(parameter))
    return model


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [p for _, p in model.named_parameters() if p.requires_grad]


def _outputs(animal: Animal, model: nn.Module, inputs) -> Tensor:
    return model(inputs) if animal.forward is None else animal.forward(model, inputs)


def _loss(animal: Animal, model: nn.Module) -> Tensor:
    inputs, targets = _double(animal.data)
    loss = animal.loss_fn(_outputs(animal, model, inputs), targets)
    if animal.penalty is not None:
        loss = loss + animal.penalty(dict(model.named_parameters()))
    return loss


def _gradient(scalar: Tensor, parameters: list[nn.Parameter], **options) -> Tensor:
    """Flat, zero for what the scalar does not depend on."""
    pieces = torch.autograd.grad(scalar, parameters, allow_unused=True, **options)
    return torch.cat(
        [
            torch.zeros_like(p).flatten() if piece is None else piece.flatten()
            for p, piece in zip(parameters, pieces, strict=True)
        ]
    )


def _jacobian(values: Tensor, parameters: list[nn.Parameter]) -> Tensor:
    rows = [_gradient(value, parameters, retain_graph=True) for value in values]
    return torch.stack(rows).detach()


def _double(tree):
    """The tree with its floating tensors in float64."""
    if isinstance(tree, dict):
        return {key: _double(value) for key, value in tree.items()}
    if isinstance(tree, tuple):
        return tuple(_double(value) for value in tree)
    return tree.double() if tree.is_floating_point() else tree


def _plain_kernels():
    """Attention whose second derivatives exist; oneDNN's recurrent layers are not for float64."""
    return sdpa_kernel(SDPBackend.MATH)
