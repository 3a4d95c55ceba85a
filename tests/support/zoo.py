"""Which models do people bring? A zoo of small ones, each with its data, its loss, and the reason
why it has to be refused, where it has to be.

`ZOO` lists the animals, `ANIMALS` holds them by name. Weights are built when asked for, from a seed
of their own; the global random numbers stay as they are. Nothing here imports the project.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import zoo_modules as own
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.nn.utils import weight_norm as old_weight_norm

BOTH = ("expected", "empirical")


@dataclass(frozen=True)
class Animal:
    """A model, its data and its loss.

    Args:
        build: The model, the same at each call.
        data: (inputs, targets), each a tensor or a tree (dict, tuple) of tensors, (n, …).
        loss_fn: Of (outputs, targets).
        forward: (model, inputs) → outputs; None: model(inputs).
        penalty: Of the dict of all named parameters, a scalar that the loss has besides.
        refused: Matches the reason why it must be refused; None: the right value is required.
        may_refuse: Matches a reason that may be given instead of the right value.
        family: What the loss is −log p of: "categorical" (classes along dimension 1),
            "bernoulli" (each output), "gaussian" (each sample), or None.
        fishers: The kinds of Fisher information that the loss has.
        twin: Builds the same weights under the same names in a module that plain autograd
            differentiates twice; None: `build` does.
    """

    name: str
    build: Callable[[], nn.Module]
    data: tuple
    loss_fn: Callable
    forward: Callable | None = None
    penalty: Callable | None = None
    group: str = "dense"
    refused: str | None = None
    may_refuse: str | None = None
    family: str | None = None
    fishers: tuple[str, ...] = ()
    twin: Callable[[], nn.Module] | None = None


def seeded(build: Callable[[], nn.Module], dtype=torch.float64, seed: int = 0):
    """`build` from a seed of its own, each weight moved a little from where layers start."""

    def built() -> nn.Module:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.default_generator.manual_seed(seed)
            model = build().to(dtype)
            for weight in model.parameters():
                weight += 0.2 * torch.randn_like(weight)
        return model

    return built


def draw(*shape: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def integers(high: int, *shape: int, seed: int = 2) -> Tensor:
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def classifier(name: str, build: Callable, inputs=None, **more) -> Animal:
    """Three classes, cross-entropy; what `more` names is otherwise."""
    inputs = draw(12, 3) if inputs is None else inputs
    given = {
        "data": (inputs, integers(3, 12)),
        "loss_fn": F.cross_entropy,
        "family": "categorical",
        **more,
    }
    given.setdefault("fishers", BOTH if given["family"] and not given.get("refused") else ())
    return Animal(name, seeded(build), **given)


def regressor(name: str, build: Callable, inputs=None, targets=None, **more) -> Animal:
    """Three outputs, squared error; what `more` names is otherwise."""
    inputs = draw(12, 3) if inputs is None else inputs
    targets = draw(12, 3, seed=3) if targets is None else targets
    given = {"data": (inputs, targets), "loss_fn": F.mse_loss, "family": "gaussian", **more}
    return classifier(name, build, inputs, **given)


def ffnn(activation: Callable = nn.Tanh, outputs: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), activation(), nn.Linear(4, outputs))


def image_net(*layers: nn.Module) -> nn.Module:
    """Layers on images, up to four channels, then the mean over places and a head."""
    pool = (nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*layers, nn.Tanh(), *pool, nn.Linear(4, 3))


def dense() -> list[Animal]:
    one = draw(24, 1, seed=3)
    return [
        regressor("linear regression", lambda: nn.Linear(20, 1), draw(24, 20), one),
        classifier("softmax regression", lambda: nn.Linear(6, 3), draw(12, 6)),
        classifier("ffnn relu", lambda: ffnn(nn.ReLU)),
        classifier("ffnn tanh", ffnn),
        classifier("ffnn gelu", lambda: ffnn(nn.GELU)),
        classifier("ffnn prelu", lambda: ffnn(nn.PReLU)),
        regressor("ffnn squared error", ffnn),
        regressor("deep linear", lambda: chain(*(nn.Linear(3, 3, bias=False) for _ in range(3)))),
        classifier("residual", lambda: chain(own.Residual(ffnn()), nn.Tanh(), nn.Linear(3, 3))),
    ]


def convolutional() -> list[Animal]:
    images = draw(12, 2, 5, 5)

    def conv(name: str, kernel, **options) -> Animal:
        return classifier(
            f"conv2d {name}", lambda: image_net(nn.Conv2d(2, 4, kernel, **options)), images
        )

    def pooled(pool: nn.Module) -> nn.Module:
        return image_net(nn.Conv2d(2, 4, 2), nn.ReLU(), pool)

    return [
        conv("zero padding", 3, padding=1),
        conv("reflect", 3, padding=1, padding_mode="reflect"),
        conv("circular", 3, padding=1, padding_mode="circular"),
        conv("same", (2, 3), padding="same"),
        conv("groups", 3, groups=2),
        conv("dilation", 2, dilation=2),
        conv("stride", 3, stride=2),
        classifier("conv transpose", lambda: image_net(nn.ConvTranspose2d(2, 4, 2, 2)), images),
        classifier("max pool", lambda: pooled(nn.MaxPool2d(2)), images),
        classifier("avg pool", lambda: pooled(nn.AvgPool2d(2)), images),
        classifier(
            "conv1d",
            lambda: chain(nn.Conv1d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(9, 3)),
            draw(12, 2, 5),
        ),
    ]


def recurrent() -> list[Animal]:
    def last(kind: type, **options) -> Callable:
        return lambda: own.LastState(kind(3, 3, batch_first=True, **options), 3)

    sequences = draw(12, 4, 3)
    return [
        classifier("rnn", last(nn.RNN), sequences),
        classifier("lstm", last(nn.LSTM), sequences),
        classifier("gru", last(nn.GRU), sequences),
        classifier("rnn of two layers", last(nn.RNN, num_layers=2), sequences),
        classifier("gru cell in a loop", own.CellLoop, sequences),
    ]


def attention() -> list[Animal]:
    def block() -> nn.Module:
        return nn.TransformerEncoderLayer(
            4, 2, dim_feedforward=4, dropout=0.0, batch_first=True, activation="gelu"
        )

    tokens, ids = draw(12, 3, 4), integers(7, 12, 3)
    gpt = {"data": (ids, integers(7, 12, 3, seed=5))}
    return [
        classifier("multihead attention", lambda: own.Pooled(own.SelfAttention(), 4), tokens),
        classifier(
            "multihead attention with weights",
            lambda: own.Pooled(own.SelfAttention(need_weights=True), 4),
            tokens,
        ),
        classifier("transformer encoder layer", lambda: own.Pooled(block(), 4), tokens),
        classifier(
            "transformer encoder layer in eval", lambda: own.Pooled(block(), 4).eval(), tokens
        ),
        classifier("sdpa", lambda: own.Pooled(own.DirectAttention(), 4), tokens),
        classifier("sdpa causal", lambda: own.Pooled(own.DirectAttention(causal=True), 4), tokens),
        classifier("gpt", own.TinyGPT, forward=lambda m, x: m(x).transpose(1, 2), **gpt),
        classifier("gpt flattened", own.TinyGPT, loss_fn=flat_tokens, family=None, **gpt),
        classifier(
            "embedding", lambda: chain(nn.Embedding(7, 3), nn.Flatten(), nn.Linear(9, 3)), ids
        ),
        classifier(
            "embedding padding",
            lambda: chain(nn.Embedding(7, 3, padding_idx=0), nn.Flatten(), nn.Linear(9, 3)),
            ids,
        ),
        classifier("embedding bag", bag, ids, twin=seeded(lambda: own.BagByHand(bag()))),
        classifier(
            "attention without batch_first",
            lambda: own.Pooled(own.SelfAttention(batch_first=False), 4),
            tokens,
            refused="other samples|not a mean",
        ),
    ]


def normalised() -> list[Animal]:
    images = draw(12, 2, 4, 4)

    def normal(name: str, layer: Callable, *, training: bool = True, **more) -> Animal:
        """`layer()` after an activation of four features."""

        def build() -> nn.Module:
            return chain(nn.Linear(3, 4), nn.Tanh(), layer(), nn.Linear(4, 3)).train(training)

        return classifier(name, build, **more)

    def image(name: str, layer: Callable) -> Animal:
        return classifier(name, lambda: image_net(nn.Conv2d(2, 4, 2), layer(), nn.ReLU()), images)

    return [
        normal("layer norm", lambda: nn.LayerNorm(4)),
        normal("rms norm", lambda: nn.RMSNorm(4)),
        image("group norm", lambda: nn.GroupNorm(2, 4)),
        image("instance norm", lambda: nn.InstanceNorm2d(4, affine=True)),
        normal("batch norm in eval", running_norm, training=False),
        normal("dropout in eval", lambda: nn.Dropout(0.5), training=False),
        normal("dropout of 0", lambda: nn.Dropout(0.0)),
        normal("batch norm in train", running_norm, refused="other samples|not a mean"),
        normal(
            "batch norm without statistics in eval",
            lambda: nn.BatchNorm1d(4, track_running_stats=False),
            training=False,
            refused="other samples|not a mean",
        ),
        normal("dropout in train", lambda: nn.Dropout(0.5), refused="random"),
        normal("alpha dropout in train", lambda: nn.AlphaDropout(0.5), refused="random"),
    ]


def tied() -> list[Animal]:
    def same_layer() -> nn.Module:
        layer = nn.Linear(3, 3)
        return chain(layer, nn.Tanh(), layer, nn.Tanh(), nn.Linear(3, 3))

    def same_parameter() -> nn.Module:
        model = chain(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
        model[2].weight = model[0].weight
        return model

    codes = draw(12, 5)
    return [
        classifier("same layer twice", same_layer),
        classifier("same parameter in two layers", same_parameter, draw(12, 4)),
        regressor("tied autoencoder", own.TiedTranspose, codes, codes),
    ]


def reparametrised() -> list[Animal]:
    def rebuilt(name: str, change: Callable, *, training: bool = True, **more) -> Animal:
        """A network of 4 features whose middle layer went through `change`."""

        def build() -> nn.Module:
            layers = (nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
            model = chain(*layers)
            with torch.enable_grad():
                change(model[2])
            return model.train(training)

        return classifier(name, build, **more)

    def normed(name: str, change: Callable, by_hand: Callable) -> Animal:
        """With a twin: the second derivatives of torch's fused `_weight_norm` are wrong."""
        animal = rebuilt(name, change, may_refuse="weight.?norm")
        twin = rebuilt(name, lambda layer: by_hand(change(layer)))
        return replace(animal, twin=twin.build)

    spectral = parametrizations.spectral_norm
    return [
        rebuilt("pruned", lambda layer: prune.l1_unstructured(layer, "weight", 0.5)),
        rebuilt("pruned rows", lambda layer: prune.ln_structured(layer, "weight", 0.5, 2, 0)),
        normed("old weight norm", old_weight_norm, own.old_norm_by_hand),
        normed("weight norm", parametrizations.weight_norm, own.norm_by_hand),
        rebuilt("old spectral norm in eval", old_spectral_norm, training=False),
        rebuilt("spectral norm in eval", spectral, training=False),
        rebuilt(
            "orthogonal", lambda layer: parametrizations.orthogonal(layer, orthogonal_map="cayley")
        ),
        rebuilt(
            "positive weights",
            lambda layer: parametrize.register_parametrization(layer, "weight", own.Positive()),
        ),
        rebuilt("spectral norm in train", spectral, refused="changes|random"),
    ]


def functional() -> list[Animal]:
    positive = draw(12, 3).abs() + 0.1
    padded = draw(12, 4, 3)
    for i, sequence in enumerate(padded):
        sequence[1 + i % 4 :] = 0

    def checkpointed(use_reentrant: bool | None) -> Callable:
        return lambda: own.Checkpointed(use_reentrant)

    plain = seeded(checkpointed(None))
    return [
        classifier("raw parameters", own.RawParameters),
        classifier(
            "branch on the weights", lambda: own.Branching(lambda self, x: self.first.bias.sum())
        ),
        classifier(
            "branch that all inputs take", lambda: own.Branching(lambda self, x: x.sum()), positive
        ),
        classifier(
            "branch on the batch",
            lambda: own.Branching(lambda self, x: x.sum()),
            refused="other samples|not a mean",
        ),
        classifier("boolean mask", own.MaskedTokens, padded),
        classifier(
            "old-style function",
            lambda: own.Between(lambda self, h: own.OldStyle.apply(h)),
            may_refuse="setup_context|autograd.Function",
        ),
        classifier("checkpoint", checkpointed(False), twin=plain),
        classifier(
            "reentrant checkpoint", checkpointed(True), twin=plain, may_refuse="use_reentrant"
        ),
        classifier("compiled", lambda: torch.compile(ffnn(), backend="eager"), twin=seeded(ffnn)),
        classifier("in place", lambda: own.Between(lambda self, h: h.mul_(2).tanh_())),
        classifier("argmax", lambda: own.Between(top_only)),
    ]


def losses() -> list[Animal]:
    """Losses of a network, and one of tokens: (n, C, L) against (n, L)."""
    weight = torch.tensor([0.5, 1.0, 2.5], dtype=torch.float64)
    labels, values, tokens = integers(3, 12), draw(12, 3, seed=3), integers(3, 12, 4)
    holes, token_holes = labels.clone(), tokens.clone()
    holes[::5] = -100
    for i, row in enumerate(token_holes):
        row[1 + i % 4 :] = 1  # uneven numbers of tokens that count
    soft, bits = draw(12, 3, seed=6).softmax(1), integers(2, 12, 3).double()
    x = draw(12, 3)

    def logs() -> nn.Module:
        return chain(ffnn(), nn.LogSoftmax(1))

    def token_net() -> nn.Module:
        return chain(nn.Conv1d(3, 4, 1), nn.Tanh(), nn.Conv1d(4, 3, 2, padding="same"))

    def of(name: str, loss_fn: Callable, targets: Tensor = labels, build=ffnn, **more) -> Animal:
        inputs = draw(12, 3, 4) if build is token_net else x
        given = {"family": None, "fishers": (), **more}
        return classifier(name, build, loss_fn=loss_fn, data=(inputs, targets), **given)

    classes = {"family": "categorical", "fishers": BOTH}
    expected = {"family": "categorical", "fishers": BOTH[:1]}
    return [
        of("class weights", nn.CrossEntropyLoss(weight=weight), **classes),
        of("ignore_index", nn.CrossEntropyLoss(), holes, **classes),
        of("class weights and ignore_index", nn.CrossEntropyLoss(weight=weight), holes, **classes),
        of("label smoothing", nn.CrossEntropyLoss(label_smoothing=0.1), **expected),
        of("soft targets", F.cross_entropy, soft, **expected),
        of("kl", nn.KLDivLoss(reduction="batchmean"), soft, logs, **expected),
        of("nll of log_softmax", F.nll_loss, labels, logs, **classes),
        of("tokens", F.cross_entropy, tokens, token_net, **classes),
        of(
            "tokens ignored", nn.CrossEntropyLoss(ignore_index=1), token_holes, token_net, **classes
        ),
        of("bce", nn.BCEWithLogitsLoss(), bits, family="bernoulli", fishers=BOTH),
        of("mse module", nn.MSELoss(), values, family="gaussian", fishers=BOTH),
        of(
            "mse of places",
            F.mse_loss,
            draw(12, 3, 4, seed=3),
            token_net,
            family="gaussian",
            fishers=BOTH,
        ),
        of("sum over outputs", lambda o, t: (o - t).square().sum(1).mean(), values),
        of("huber", nn.HuberLoss(delta=0.5), values),
        of("smooth l1", F.smooth_l1_loss, values),
        *penalties(),
        *refused_losses(weight, labels, values, of),
    ]


def penalties() -> list[Animal]:
    """A penalty as it is meant to be given, and the same one hidden in the loss."""
    last_built: list[nn.Module] = []

    def kept() -> nn.Module:
        last_built[:] = [ffnn()]
        return last_built[0]

    def closure(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets) + decay(dict(last_built[0].named_parameters()))

    return [
        classifier("penalty", ffnn, penalty=decay),
        regressor("penalty that is not quadratic", ffnn, penalty=log_cosh),
        classifier("penalty in a closure", kept, loss_fn=closure, family=None, refused="penalty="),
    ]


def refused_losses(weight: Tensor, labels: Tensor, values: Tensor, of: Callable) -> list[Animal]:
    def info_nce(outputs: Tensor, targets: Tensor) -> Tensor:
        """Each output against the targets of all samples."""
        return F.cross_entropy(outputs @ targets.T, torch.arange(len(outputs)))

    summed = "sum over the samples"
    return [
        of("sum", nn.CrossEntropyLoss(reduction="sum"), refused=summed),
        of("sum in a lambda", lambda o, t: (o - t).square().sum(), values, refused=summed),
        of("no reduction", nn.MSELoss(reduction="none"), values, refused="mean"),
        of(
            "one column against a row",
            F.mse_loss,
            values[:, 0],
            lambda: ffnn(outputs=1),
            refused="broadcast",
        ),
        of("info nce", info_nce, values, refused="other samples|not a mean"),
        of(
            "hidden class weights",
            lambda o, t: F.cross_entropy(o, t, weight=weight),
            refused="not a mean.*weight",
        ),
    ]


def precision() -> list[Animal]:
    """Weights and data of other types: values are those of float64 arithmetic on the same ones."""
    x, labels = draw(12, 3), integers(3, 12)
    values = eighths(draw(12, 3, seed=3)).bfloat16()

    def cast(name: str, dtype: torch.dtype, **more) -> Animal:
        made = classifier(name, ffnn, **{"data": (x.to(dtype), labels), **more})
        return replace(made, build=seeded(ffnn, dtype))

    def dyadic() -> nn.Module:
        model = seeded(ffnn)()
        with torch.no_grad():
            for weight in model.parameters():
                weight.copy_(eighths(weight))
        return model.bfloat16()

    def two_types() -> nn.Module:
        model = seeded(own.TwoTypes)()
        model.first.float()
        return model

    coarse = eighths(x).bfloat16()
    return [
        cast("float32", torch.float32),
        replace(classifier("bfloat16", ffnn, coarse), build=dyadic),
        replace(regressor("bfloat16 squared error", ffnn, coarse, values), build=dyadic),
        replace(classifier("two types", own.TwoTypes), build=two_types, may_refuse="float32"),
    ]


def hooks() -> list[Animal]:
    def hooked(name: str, register: Callable, **more) -> Animal:
        """`register(layer, seen)` puts a hook on the middle of a network; `seen` is a list."""

        def build() -> nn.Module:
            model = chain(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))
            model.seen = []
            register(model[1], model.seen)
            return model

        return classifier(name, build, **more)

    def backward(layer: nn.Module, seen: list) -> None:
        layer.register_full_backward_hook(lambda m, into, out: seen.append(out[0].detach().norm()))

    def forward(layer: nn.Module, seen: list) -> None:
        layer.register_forward_hook(lambda m, given, out: seen.append(out.detach().norm()))

    def used() -> nn.Module:
        model = seeded(lambda: own.Between(keep))()
        model(draw(12, 3))
        return model

    return [
        hooked("backward hook that records", backward),
        hooked("forward hook that records", forward),
        hooked(
            "forward hook that changes",
            lambda layer, seen: layer.register_forward_hook(lambda m, given, out: 2 * out),
        ),
        replace(classifier("keeps an activation", used), build=used),  # and has kept one already
    ]


def odd() -> list[Animal]:
    pair, labels = (draw(12, 3), draw(12, 2, seed=4)), integers(3, 12)
    named = dict(zip(("left", "right"), pair, strict=True))
    both = {"label": labels, "value": draw(12, seed=3)}

    def frozen() -> nn.Module:
        model = chain(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
        model[0].requires_grad_(False)
        return model

    def two_tasks(outputs: Tensor, targets: dict[str, Tensor]) -> Tensor:
        value = F.mse_loss(outputs[:, 3], targets["value"])
        return F.cross_entropy(outputs[:, :3], targets["label"]) + value

    def between(name: str, function: Callable, extra: Callable = dict, **more) -> Animal:
        return classifier(name, lambda: own.Between(function, **extra()), **more)

    return [
        between("layer never called", bent, lambda: {"idle": nn.Linear(2, 2)}),
        between("head not returned", other_head, lambda: {"other": nn.Linear(4, 2)}),
        classifier("modules in a plain list", own.PlainList),
        classifier("logits", own.WithLogits, forward=lambda m, x: m(x).logits),
        classifier("dict inputs", own.TakesDict, data=(named, labels)),
        classifier(
            "dict as keywords",
            own.TwoInputs,
            data=(named, labels),
            forward=lambda m, inputs: m(**inputs),
        ),
        classifier(
            "two inputs", own.TwoInputs, data=(pair, labels), forward=lambda m, inputs: m(*inputs)
        ),
        classifier(
            "two tasks",
            lambda: ffnn(outputs=4),
            data=(pair[0], both),
            loss_fn=two_tasks,
            family=None,
        ),
        classifier("frozen layer", frozen),
        classifier("buffers", own.BufferNormalised),
        classifier(
            "scores without forward", own.WithScores, refused="forward=.*Scores|Scores.*forward="
        ),
        between("noise", lambda self, h: h + 0.1 * torch.rand_like(h), refused="random"),
        between("centred batch", lambda self, h: h - h.mean(0), refused="other samples|not a mean"),
    ]


def chain(*modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(*modules)


def bag() -> nn.Module:
    return nn.Sequential(nn.EmbeddingBag(7, 3, mode="mean"), nn.Tanh(), nn.Linear(3, 3))


def running_norm() -> nn.Module:
    """Batch norm whose running statistics are no 0 and 1."""
    norm = nn.BatchNorm1d(4)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    return norm


def flat_tokens(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of (n, L, C) against (n, L)."""
    return F.cross_entropy(outputs.flatten(0, 1), targets.flatten())


def eighths(values: Tensor) -> Tensor:
    """Multiples of 1/8 below 4, which bfloat16 holds exactly."""
    return (8 * values).round().clamp(-31, 31) / 8


def decay(named: dict[str, Tensor]) -> Tensor:
    return 0.05 * sum(weight.square().sum() for weight in named.values())


def log_cosh(named: dict[str, Tensor]) -> Tensor:
    return 0.1 * sum(weight.cosh().log().sum() for weight in named.values())


def bent(self: nn.Module, hidden: Tensor) -> Tensor:
    return hidden.tanh()


def keep(self: nn.Module, hidden: Tensor) -> Tensor:
    """Leaves a tensor with a graph behind, as an attribute."""
    self.kept = hidden.tanh()
    return self.kept


def other_head(self: nn.Module, hidden: Tensor) -> Tensor:
    self.other(hidden)
    return hidden.tanh()


def top_only(self: nn.Module, hidden: Tensor) -> Tensor:
    """All but each sample's largest feature, by a mask that `scatter` makes."""
    top = hidden.argmax(1, keepdim=True)
    return hidden.masked_fill(torch.zeros_like(hidden, dtype=torch.bool).scatter(1, top, True), 0)


GROUPS = {
    group.__name__: group
    for group in (
        dense, convolutional, recurrent, attention, normalised, tied, reparametrised, functional,
        losses, precision, hooks, odd,
    )
}  # fmt: skip
ZOO = [replace(animal, group=name) for name, group in GROUPS.items() for animal in group()]
ANIMALS = {animal.name: animal for animal in ZOO}
