"""Reconstruction: what a feature costs where those that stay make up for it.

OBD's score of a feature is what the loss loses when the feature becomes zero. But after a cut the
layers that read it can be fitted again (`reconstruct_`), and then only that part of the feature is
lost which the others do not explain. With the covariance C of an axis' features and P = C^-1, the
share of feature j that no linear combination of the others gives is (1 / P_jj) / E[x_j^2], so

    score_j = obd_j x |w_j|^2 / |w_j before|^2 x (1 / P_jj) / E[x_j^2]

Features are taken away one after another, the cheapest first. Each time the weights w that read the
others take over, and P becomes the P of what is left, as in Optimal Brain Surgeon (Hassibi & Stork,
1993; for features: Kurtic et al., "ZipLM", 2023):

    w_i -= P_ji / P_jj w_j          P -= P_j' P_j / P_jj

A feature's score is what it cost when it went.
"""

from __future__ import annotations

import torch
from torch import Tensor

from widthwise.elastic.network import Elastic
from widthwise.pruning.scores.activations import Moments, moments
from widthwise.pruning.scores.gates import find_gates, read_weights
from widthwise.pruning.scores.gradients import Batches, Criterion
from widthwise.pruning.scores.progress import finite
from widthwise.pruning.scores.weights import obd

_ROUNDS = 512  # the features of an axis leave in at most so many rounds


def output_error(
    net: Elastic,
    batches: Batches,
    criterion: Criterion,
    *,
    ridge: float = 1e-3,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, Tensor]:
    """OBD's score times the share of the feature's variance that those that stay do not explain.

    Scores rise in the order in which features go, so that sorting by them gives that order. Axes
    whose features nothing sums over keep OBD's scores.

    Args:
        batches: gone through twice.
        ridge: added to the variances, relative to their mean. In memory are, for each axis, the
            squares of its numbers of features.
    """
    alone = obd(net, batches, criterion, seed=seed, progress=progress)
    together = moments(net, batches, progress=progress)
    gates, state = find_gates(net), net.engine.state()
    found = dict(alone)
    for name in together:
        weights = read_weights(gates[name], state)
        found[name] = _eliminate(alone[name], together[name], weights, ridge)
    return finite(found)


def _eliminate(alone: Tensor, together: Moments, weights: Tensor, ridge: float) -> Tensor:
    """What each feature of an axis costs when it goes, never falling, (features,).

    alone: OBD's scores. weights: those that read each feature, (features, numbers).
    """
    covariance = together.covariance
    pull = ridge * covariance.diagonal().mean() + 1e-12
    eye = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
    inverse = torch.linalg.inv(covariance + pull * eye)
    # A feature's share of the loss for each unit of variance that is lost, and of squared weight.
    size = together.products.diagonal() * weights.square().sum(dim=1)
    rate = alone.double() / size.clamp(min=1e-12)
    left = torch.arange(len(alone), device=alone.device)
    scores, highest = torch.zeros_like(rate), rate.new_zeros(())
    some = -(-len(alone) // _ROUNDS)
    while len(left):
        costs = rate[left] * weights[left].square().sum(dim=1) / inverse.diagonal()[left]
        order = costs.argsort(stable=True)
        gone, costly = left[order[:some]], costs[order[:some]]
        highest = torch.maximum(highest, costly.max())
        scores[gone] = highest
        left = left[order[some:]].sort().values
        across = torch.linalg.inv(inverse[gone.unsqueeze(1), gone]) @ inverse[gone]
        weights = weights - across.T @ weights[gone]  # of those that are gone nothing is left
        inverse = inverse - inverse[:, gone] @ across
    return scores.float()
