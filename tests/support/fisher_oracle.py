"""What is the Fisher information, written down as it is defined? Dense matrices of small models,
for tests.
"""

import copy

import torch
from torch import nn
from torch.func import functional_call, hessian
from torch.nn.functional import cross_entropy, log_softmax


def flat_gradients(model, inputs) -> torch.Tensor:
    """∇_w log p(c | x_n) for every n and c, one after another: (n, classes, d)."""
    rows = []
    for sample in inputs:
        log_p = log_softmax(model(sample[None])[0], 0)
        for c in range(len(log_p)):
            trained = [p for p in model.parameters() if p.requires_grad]
            rows.append(
                torch.cat(
                    [g.flatten() for g in torch.autograd.grad(log_p[c], trained, retain_graph=True)]
                )
            )
    return torch.stack(rows).view(len(inputs), -1, rows[0].numel())


def given_labels(model, inputs, labels, kind):
    """The labels behind `kind` at seed 4; sampled ones as the module draws them: from p, on the
    CPU.
    """
    if kind != "sampled":
        return labels
    return (
        model(inputs)
        .softmax(1)
        .double()
        .multinomial(1, generator=torch.Generator().manual_seed(4))[:, 0]
    )


def dense_fisher(model, inputs, labels, kind: str) -> torch.Tensor:
    """F written out, in float64."""
    model, inputs = copy.deepcopy(model).double(), inputs.double()
    gradients = flat_gradients(model, inputs)
    weights = model(inputs).detach().softmax(1)
    if kind != "expected":
        weights = nn.functional.one_hot(labels, gradients.shape[1]).double()
    return torch.einsum("nc,nci,ncj->ij", weights, gradients, gradients) / len(inputs)


def dense_hessian(model, inputs, labels) -> torch.Tensor:
    model = copy.deepcopy(model).double()
    params = dict(model.named_parameters())
    sizes = [p.numel() for p in params.values()]

    def loss(flat):
        pieces = zip(params.items(), flat.split(sizes), strict=True)
        named = {name: piece.view_as(p) for (name, p), piece in pieces}
        return cross_entropy(functional_call(model, named, (inputs.double(),)), labels)

    return hessian(loss)(torch.cat([p.detach().flatten() for p in params.values()]))


def perceptron():
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.ReLU(inplace=True), nn.Linear(6, 3))


def small_problem():
    torch.manual_seed(0)
    return perceptron(), torch.randn(23, 1, 4, 4), torch.randint(3, (23,))


# changes to (model, data, kind, batch_size) of a classifier of 16 inputs and 3 classes; the reason
# given
REFUSED = [
    ({"kind": "true"}, "kind = 'true'; allowed: expected, sampled, empirical"),
    ({"batch_size": 0}, "batch_size = 0; allowed: an integer, at least 1"),
    ({"model": nn.Flatten()}, "no weights that require a gradient"),
    ({"model": nn.Linear(16, 3).requires_grad_(False)}, "no weights that require a gradient"),
    (
        {"model": nn.Sequential(nn.Linear(16, 3), nn.BatchNorm1d(3))},
        "depends on the other samples.*model.eval",
    ),
    ({"data": (torch.zeros(0, 16), torch.zeros(0, dtype=torch.long))}, "data is empty"),
    (
        {"data": (torch.zeros(2, 16), torch.tensor([0, 3]))},
        "labels go from 0 to 3; allowed for 3 outputs: 0 to 2",
    ),
    ({"data": (torch.zeros(2, 16), torch.zeros(2, 3))}, "allowed: logits .* and class indices"),
]
