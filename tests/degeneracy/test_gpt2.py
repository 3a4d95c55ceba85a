"""Hugging Face's GPT-2, as its authors wrote it: every estimate, through one line of adapter."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from degeneracy.curvature.largest import top_eigenvalues
from degeneracy.curvature.trace import hessian_trace
from degeneracy.data.files import import_torchvision
from degeneracy.llc.estimate import estimate_llcs
from degeneracy.llc.settings import SamplerSettings
from degeneracy.objective.loss import objective_of

import_torchvision()  # which GPT-2's module does too, in a way that fails beside some builds
transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install -r requirements-dev.txt"
)

VOCABULARY, LENGTH, N = 11, 5, 24
NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}


def gpt2(attention: str = "sdpa", **options) -> nn.Module:
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=LENGTH,
        n_embd=6,
        n_layer=1,
        n_head=2,
        n_inner=8,
        bos_token_id=0,
        eos_token_id=0,
        **options,
    )
    config._attn_implementation = attention
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.GPT2LMHeadModel(config).double()
        with torch.no_grad():
            for weight in model.parameters():
                weight += 0.2 * torch.randn_like(weight)
    return model


def tokens() -> dict[str, Tensor]:
    """Sequences of uneven lengths, and the token that follows each, where one does."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, VOCABULARY, (N, LENGTH), generator=generator)
    mask = (torch.arange(LENGTH) < 3 + torch.arange(N)[:, None] % 3).long()
    labels = torch.full_like(ids, -100)
    labels[:, :-1] = torch.where(mask[:, 1:] > 0, ids[:, 1:], -100)
    return {"input_ids": ids * mask, "attention_mask": mask, "labels": labels}


def logits(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """(n, classes, places)."""
    return model(**inputs, use_cache=False).logits.transpose(1, 2)


def whole_loss(model: nn.Module) -> Tensor:
    """By plain autograd, over all tokens that count."""
    data = tokens()
    labels = data.pop("labels")
    return cross_entropy(logits(model, data), labels)


def dense_hessian(model: nn.Module) -> Tensor:
    weights = [p for p in model.parameters() if p.requires_grad]
    with sdpa_kernel(SDPBackend.MATH):
        slopes = torch.autograd.grad(whole_loss(model), weights, create_graph=True)
        flat = torch.cat([slope.flatten() for slope in slopes])
        rows = [torch.autograd.grad(g, weights, retain_graph=True) for g in flat]
    return torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])


# In training mode with dropouts of 0 nothing is random, and eager attention takes no shortcut.
MODES = {
    "eval": lambda: gpt2().eval(),
    "train without dropout": lambda: gpt2(**NO_DROPOUT).train(),
    "eager attention": lambda: gpt2("eager").eval(),
}
modes = pytest.mark.parametrize("mode", MODES)


@pytest.fixture(scope="module")
def right() -> Tensor:
    return torch.linalg.eigvalsh(dense_hessian(gpt2().eval())).flip(0)


@modes
def test_top_eigenvalues_are_those_of_the_dense_hessian(mode, right):
    found = top_eigenvalues(
        MODES[mode](), cross_entropy, tokens(), 3, forward=logits, tolerance=1e-7
    )
    assert np.allclose(found, right[:3].numpy(), rtol=1e-6)


def test_top_eigenvalues_of_a_loader_of_dicts_are_the_same(right):
    data = tokens()
    rows = [{name: tensor[i] for name, tensor in data.items()} for i in range(N)]
    for cache_bytes in (None, 100):
        found = top_eigenvalues(
            gpt2().eval(),
            cross_entropy,
            DataLoader(rows, 5),
            1,
            forward=logits,
            cache_bytes=cache_bytes,
            batch_size=7,
            tolerance=1e-7,
        )
        assert np.allclose(found, right[:1].numpy(), rtol=1e-6)


@modes
def test_the_trace_is_right_within_its_error(mode, right):
    found = hessian_trace(MODES[mode](), cross_entropy, tokens(), 40, forward=logits)
    assert abs(found.trace - float(right.sum())) < 4 * found.std_error
    assert found.std_error < 0.1 * abs(float(right.sum()))


def test_head_and_embedding_are_one_weight():
    objective = objective_of(gpt2().eval(), cross_entropy, tokens(), forward=logits)
    assert "transformer.wte.weight" in objective.weights
    assert "lm_head.weight" not in objective.weights


@modes
@pytest.mark.parametrize("backend", ["batched", "devinterp"])
def test_a_chain_samples_the_loss_of_tokens_that_count(mode, backend):
    """Draws are of weights whose loss over all tokens is the one that is recorded."""
    model, draws = MODES[mode](), []
    settings = SamplerSettings(
        sampler="sgld", num_chains=2, num_draws=5, sampler_lr=1e-5, nbeta=10.0, backend=backend
    )
    (found,) = estimate_llcs(
        model, [model.state_dict()], tokens(), settings, N, forward=logits, on_draw=draws.append
    )
    assert found.init_loss == pytest.approx(float(whole_loss(model).detach()), rel=1e-6)
    assert len(draws) == 10
    for told in draws:
        there = gpt2().eval()
        there.load_state_dict({**there.state_dict(), **told.weights}, strict=True)
        there.tie_weights()
        loss = float(whole_loss(there).detach())
        assert told.loss == pytest.approx(loss, rel=1e-5)
        assert found.trace[told.chain, told.number] == pytest.approx(loss, rel=1e-5)
    assert np.ptp(found.trace) > 1e-3


def test_auto_samples_it_without_a_word_about_it():
    model = gpt2().eval()
    settings = SamplerSettings(num_chains=2, num_draws=8, num_burnin_steps=2, nbeta=10.0)
    (found,) = estimate_llcs(model, [model.state_dict()], tokens(), settings, N, forward=logits)
    assert np.isfinite(found.trace).all()
    assert found.llc is not None


def test_labels_that_the_model_takes_itself_need_no_loss():
    """Without `forward`, the outputs are `.logits`, and the user's loss says the axes."""

    def of_tokens(outputs: Tensor, labels: Tensor) -> Tensor:
        own = cross_entropy(outputs.transpose(1, 2), labels, reduction="none")
        return own.sum(1).div((labels >= 0).sum(1)).mean()  # a mean for each sequence

    model, data = gpt2().eval(), tokens()
    labels = data.pop("labels")
    objective = objective_of(model, of_tokens, (data, labels))
    with torch.no_grad():
        expected = of_tokens(model(**data).logits, labels)
    assert objective.mean_loss(7) == pytest.approx(float(expected), rel=1e-10)
    hessian_trace(model, of_tokens, (data, labels), 2)


def test_the_default_config_in_training_mode_is_refused_for_its_dropout():
    model = gpt2().train()
    for measure in (
        lambda: hessian_trace(model, cross_entropy, tokens(), forward=logits),
        lambda: top_eigenvalues(model, cross_entropy, tokens(), 1, forward=logits),
        lambda: estimate_llcs(
            model, [model.state_dict()], tokens(), SamplerSettings(), N, forward=logits
        ),
    ):
        with pytest.raises(ValueError, match=r"transformer\.drop is a Dropout in training mode"):
            measure()


def test_the_model_is_left_as_it_was():
    model = gpt2().eval()
    before = {name: id(p) for name, p in model.named_parameters()}
    values = {name: t.clone() for name, t in model.state_dict().items()}
    hessian_trace(model, cross_entropy, tokens(), 2, forward=logits)
    assert {name: id(p) for name, p in model.named_parameters()} == before
    assert model.lm_head.weight is model.transformer.wte.weight
    assert all(torch.equal(t, values[name]) for name, t in model.state_dict().items())
    assert not model.training
