"""Plots Muster's curves against PyTorch's on the reference task and writes the figures.

python plot.py --ours results --reference reference-curves --out results
Writes curves.png and summary.json to --out, and prints the summary.
"""
import argparse
import glob
import json
import os

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np


def load(directory):
    curves = {}
    for path in sorted(glob.glob(os.path.join(directory, "*.json"))):
        curve = json.load(open(path))
        if "train_loss" not in curve:
            continue
        curve["train_loss"] = np.array(curve["train_loss"], dtype=float)
        curves[os.path.basename(path)[: -len(".json")]] = curve
    return curves


def smooth(values, window=10):
    return np.convolve(values, np.ones(window) / window, mode="valid")


def figures(curve):
    loss = curve["train_loss"]
    return dict(
        steps=len(loss),
        train_loss_last20=round(float(loss[-20:].mean()), 4),
        validation={k: round(v, 4) for k, v in curve["val_loss"].items()},
        **{k: curve[k] for k in ("tokens_per_second", "hardware", "numerics_fingerprint") if k in curve},
    )


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--ours", default="results")
    ap.add_argument("--reference", default="reference-curves")
    ap.add_argument("--anchor", default="curve.fp32.seed1.order1", help="the reference run that ours start from or are held against")
    ap.add_argument("--out", default="results")
    a = ap.parse_args()
    ours, reference = load(a.ours), load(a.reference)
    anchor = reference[a.anchor]["train_loss"]

    # One colour a run, in both panels.
    colour = {name: f"C{i}" for i, name in enumerate([*reference, *ours])}
    fig, (top, bottom) = plt.subplots(2, 1, figsize=(10, 9), height_ratios=[3, 2], sharex=True)
    for name, curve in reference.items():
        top.plot(smooth(curve["train_loss"]), lw=1, alpha=0.8, color=colour[name], label=f"PyTorch {name.removeprefix('curve.')}")
    for name, curve in ours.items():
        top.plot(smooth(curve["train_loss"]), lw=1.6, ls="--", color=colour[name], label=f"Muster {name.removeprefix('muster.')}")
    top.set_ylabel("training loss, nats a token (mean of 10 steps)")
    top.legend()
    top.grid(alpha=0.3)

    def difference(curve):
        n = min(len(curve["train_loss"]), len(anchor))
        return np.abs(curve["train_loss"][:n] - anchor[:n])

    for name, curve in reference.items():
        if name != a.anchor:
            bottom.semilogy(difference(curve) + 1e-9, lw=0.8, alpha=0.7, color=colour[name], label=f"PyTorch {name.removeprefix('curve.')}")
    for name, curve in ours.items():
        bottom.semilogy(difference(curve) + 1e-9, lw=1.2, color=colour[name], label=f"Muster {name.removeprefix('muster.')}")
    bottom.set_ylabel(f"|loss − PyTorch {a.anchor.removeprefix('curve.')}|")
    bottom.set_xlabel("step")
    bottom.legend(fontsize="small")
    bottom.grid(alpha=0.3)
    fig.tight_layout()
    fig.savefig(os.path.join(a.out, "curves.png"), dpi=120)

    summary = {
        "reference": {name: figures(c) for name, c in reference.items()},
        "ours": {
            name: figures(c)
            | {"difference_from_anchor": {
                "largest": float(difference(c).max()),
                "largest_of_first_100": float(difference(c)[:100].max()),
                "mean_of_last_20": round(float(c["train_loss"][-20:].mean() - anchor[len(c["train_loss"]) - 20 : len(c["train_loss"])].mean()), 4),
            }}
            for name, c in ours.items()
        },
    }
    json.dump(summary, open(os.path.join(a.out, "summary.json"), "w"), indent=1)
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
