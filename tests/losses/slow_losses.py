"""The losses once more: NumPy, float64, one pixel list and one class at a time, from the papers' equations."""

from __future__ import annotations

import math

import numpy as np

from medseg.config import LossConfig

IGNORE = 255
SMOOTH = 1e-5


def softmax(logits_BKN: np.ndarray) -> np.ndarray:
    e = np.exp(logits_BKN - logits_BKN.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def pools(logits: np.ndarray, mask: np.ndarray, reduction: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """(probabilities (N, K), classes (N,)) of the valid pixels: of the batch, or of each image."""
    batch, num_classes = logits.shape[:2]
    probs = softmax(logits.reshape(batch, num_classes, -1).astype(np.float64))
    found = []
    for p, truth in zip(probs, mask.reshape(batch, -1), strict=True):
        keep = [place for place in range(len(truth)) if truth[place] != IGNORE]
        found.append((p.T[keep], truth[keep]))
    if reduction == "image":
        return found
    return [(np.concatenate([p for p, _ in found]), np.concatenate([truth for _, truth in found]))]


def index(p: np.ndarray, truth: np.ndarray, c: int, alpha: float, beta: float) -> float:
    """The Tversky index of class c: alpha of false positives, beta of false negatives."""
    tp = sum(p[n, c] for n in range(len(truth)) if truth[n] == c)
    fp = sum(p[n, c] for n in range(len(truth)) if truth[n] != c)
    fn = sum(1 - p[n, c] for n in range(len(truth)) if truth[n] == c)
    return (tp + SMOOTH) / (tp + alpha * fp + beta * fn + SMOOTH)


def region_term(config: LossConfig, logits: np.ndarray, mask: np.ndarray, alpha: float, beta: float, exponents: list[float]) -> float:
    """Mean over pools and classes of (1 - index) ** exponent; classes without an exponent (NaN) are left out."""
    values = [
        max(0.0, 1 - index(p, truth, c, alpha, beta)) ** exponent
        for p, truth in pools(logits, mask, config.reduction)
        for c, exponent in enumerate(exponents)
        if not math.isnan(exponent)
    ]
    return float(np.mean(values))


def soft_dice(config: LossConfig, logits: np.ndarray, mask: np.ndarray) -> float:
    values = []
    for p, truth in pools(logits, mask, config.reduction):
        for c in range(0 if config.include_background else 1, p.shape[1]):
            both = sum(p[n, c] for n in range(len(truth)) if truth[n] == c)
            values.append(1 - (2 * both + SMOOTH) / (p[:, c].sum() + (truth == c).sum() + SMOOTH))
    return float(np.mean(values))


def pixel_mean(config: LossConfig, logits: np.ndarray, mask: np.ndarray, weights: np.ndarray, gamma: float) -> float:
    values = []
    for p, truth in pools(logits, mask, config.reduction):
        total = count = 0.0
        for n, c in enumerate(truth):
            total += weights[c] * (1 - p[n, c]) ** gamma * -math.log(p[n, c])
            count += weights[c]
        values.append(total / count if count else 0.0)
    return float(np.mean(values))


def topk(config: LossConfig, logits: np.ndarray, mask: np.ndarray, weights: np.ndarray) -> float:
    values = []
    for p, truth in pools(logits, mask, config.reduction):
        losses = sorted((weights[c] * -math.log(p[n, c]) for n, c in enumerate(truth)), reverse=True)
        chosen = max(1, round(config.topk_share * len(losses)))
        values.append(sum(losses[:chosen]) / chosen / weights[truth].mean() if losses else 0.0)
    return float(np.mean(values))


def asymmetric_focal(config: LossConfig, logits: np.ndarray, mask: np.ndarray, gamma: float) -> float:
    delta, values = config.delta, []
    for p, truth in pools(logits, mask, config.reduction):
        losses = [(delta if c else (1 - delta) * (1 - p[n, c]) ** gamma) * -math.log(p[n, c]) for n, c in enumerate(truth)]
        values.append(sum(losses) / len(losses) if losses else 0.0)
    return float(np.mean(values))


def slow_terms(config: LossConfig, logits: np.ndarray, mask: np.ndarray, weights: np.ndarray | None = None) -> dict[str, float]:
    """What make_loss(config, ...)(logits, mask) must give."""
    num_classes = logits.shape[1]
    weights = np.ones(num_classes) if weights is None else weights
    exponents = [1.0 if config.include_background else math.nan] + [1.0] * (num_classes - 1)
    focal_gamma = 2.0 if config.gamma is None else config.gamma
    match config.name:
        case "dice":
            return {"dice": soft_dice(config, logits, mask)}
        case "cross_entropy":
            return {"cross_entropy": pixel_mean(config, logits, mask, weights, 0.0)}
        case "focal":
            return {"focal": pixel_mean(config, logits, mask, weights, focal_gamma)}
        case "tversky":
            return {"tversky": region_term(config, logits, mask, config.alpha, config.beta, exponents)}
        case "focal_tversky":
            powers = [e * (0.75 if config.gamma is None else config.gamma) for e in exponents]
            return {"focal_tversky": region_term(config, logits, mask, config.alpha, config.beta, powers)}
        case "unified_focal":
            gamma = 0.5 if config.gamma is None else config.gamma
            powers = [1.0] + [1 - gamma] * (num_classes - 1)
            return {
                "asymmetric_focal": 0.5 * asymmetric_focal(config, logits, mask, gamma),
                "asymmetric_focal_tversky": 0.5 * region_term(config, logits, mask, 1 - config.delta, config.delta, powers),
            }
    name, pixel = {
        "dice_ce": ("cross_entropy", lambda: pixel_mean(config, logits, mask, weights, 0.0)),
        "dice_focal": ("focal", lambda: pixel_mean(config, logits, mask, weights, focal_gamma)),
        "dice_topk": ("topk", lambda: topk(config, logits, mask, weights)),
    }[config.name]
    return {"dice": config.dice_weight * soft_dice(config, logits, mask), name: config.pixel_weight * pixel()}
