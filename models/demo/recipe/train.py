"""Trains the demo model on the packed rows of prepare.py, in f32 on a CPU (or a GPU), from given weights.

usage: train.py ROWS.npz OUT_DIR --from OLD/model.safetensors [--validation VAL.npz] [--steps 1700] [--end HH:MM] [--cool-minutes 48]

Muon for the matrices, AdamW for embeddings, norms and biases. Warm-up, constant, then a linear decay ("cooling") that begins when the first of
these happens: `--cool-steps` steps before `--steps`, `--cool-minutes` before `--end` (UTC), or SIGUSR1. Once it has begun it ends after
`--cool-steps` steps, or at `--end` where that is sooner. The process may be stopped and continued at any time.
Each 10 minutes it writes OUT_DIR/checkpoint.safetensors (a running average of the weights); at the end OUT_DIR/model.safetensors, bf16.

Only places with a loss pass the output head, whose cross-entropy is computed with its gradient in pieces that stay in the cache.
"""
import argparse
import datetime
import json
import os
import signal
import time

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

HEADS, KV_HEADS, HEAD, LAYERS, THETA, EPS = 4, 2, 64, 8, 10000.0, 1e-6
TRUNK_WEIGHT = 40  # what prepare.py gives the trunk


class HeadLoss(torch.autograd.Function):
    """Weighted mean cross-entropy of `hidden @ embedding.T`, its gradients made along the way."""

    @staticmethod
    def forward(ctx, hidden, embedding, targets, weights):
        scale, total = weights / weights.sum(), hidden.new_zeros(())
        grad_hidden, grad_embedding = torch.empty_like(hidden), torch.zeros_like(embedding)
        for piece in torch.arange(len(hidden)).split(512):
            part = slice(int(piece[0]), int(piece[-1]) + 1)
            p = torch.log_softmax(hidden[part] @ embedding.T, -1)
            picked = p.gather(1, targets[part, None])
            total -= (picked[:, 0] * scale[part]).sum()
            p.exp_()
            p.scatter_add_(1, targets[part, None], torch.full_like(picked, -1.0))
            p *= scale[part, None]
            torch.mm(p, embedding, out=grad_hidden[part])
            grad_embedding.addmm_(p.T, hidden[part])
        ctx.save_for_backward(grad_hidden, grad_embedding)
        return total

    @staticmethod
    def backward(ctx, grad):
        grad_hidden, grad_embedding = ctx.saved_tensors
        return grad_hidden * grad, grad_embedding * grad, None, None


def rms_norm(x, weight):
    return F.rms_norm(x, (x.shape[-1],), weight, EPS)


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


def layer(x, cos, sin, mask, trunk, w):
    """One decoder layer; the trunk attends causally, branches to what the mask [rows, 1, branches, all] shows."""
    rows, size, hidden = x.shape
    y = rms_norm(x, w["input_layernorm.weight"])
    qkv = F.linear(y, torch.cat([w[f"self_attn.{n}_proj.weight"] for n in "qkv"]), torch.cat([w[f"self_attn.{n}_proj.bias"] for n in "qkv"]))
    q, k, v = qkv.view(rows, size, HEADS + 2 * KV_HEADS, HEAD).transpose(1, 2).split([HEADS, KV_HEADS, KV_HEADS], 1)
    q, k = rotate(q, cos, sin), rotate(k, cos, sin)
    k, v = k.repeat_interleave(HEADS // KV_HEADS, 1), v.repeat_interleave(HEADS // KV_HEADS, 1)
    o = F.scaled_dot_product_attention(q[:, :, :trunk], k[:, :, :trunk], v[:, :, :trunk], is_causal=True)
    if trunk < size:
        o = torch.cat((o, F.scaled_dot_product_attention(q[:, :, trunk:], k, v, attn_mask=mask)), 2)
    x = x + F.linear(o.transpose(1, 2).reshape(rows, size, hidden), w["self_attn.o_proj.weight"])
    y = rms_norm(x, w["post_attention_layernorm.weight"])
    gate, up = F.linear(y, torch.cat((w["mlp.gate_proj.weight"], w["mlp.up_proj.weight"]))).chunk(2, -1)
    return x + F.linear(F.silu(gate) * up, w["mlp.down_proj.weight"])


def forward(weights, batch, trunk):
    """Final hidden states of the places with a loss, their targets and weights."""
    ids, position, branch, visible, weight = batch
    x = F.embedding(ids, weights["model.embed_tokens.weight"])
    angle = position[:, None, :, None].float() * THETA ** (-torch.arange(0, HEAD, 2).float() / HEAD)
    at = torch.arange(ids.shape[1])
    own = (branch[:, trunk:, None] == branch[:, None, :]) & (at[trunk:, None] >= at)
    mask = own | ((at < trunk) & (at < visible[:, trunk:, None]))
    mask = torch.zeros(mask.shape).masked_fill_(~mask, -1e9)[:, None]
    for n in range(LAYERS):
        prefix = f"model.layers.{n}."
        x = layer(x, angle.cos(), angle.sin(), mask, trunk, {k[len(prefix):]: v for k, v in weights.items() if k.startswith(prefix)})
    chosen = (weight > 0).nonzero(as_tuple=True)
    hidden = rms_norm(x[chosen], weights["model.norm.weight"])
    return hidden, ids[chosen[0], chosen[1] + 1], weight[chosen].float()


class Muon:
    """Momentum whose update is brought near to an orthogonal matrix by five Newton-Schulz steps; matrices of one shape go together."""

    def __init__(self, matrices, momentum=0.95):
        self.groups, self.momentum = {}, momentum
        for p in matrices:
            self.groups.setdefault(tuple(p.shape), []).append(p)
        self.states = {shape: torch.zeros(len(g), *shape) for shape, g in self.groups.items()}

    @torch.no_grad()
    def step(self, rate):
        for shape, group in self.groups.items():
            grad, state = torch.stack([p.grad for p in group]), self.states[shape]
            state.lerp_(grad, 1 - self.momentum)
            x = grad.lerp(state, self.momentum)
            if shape[0] > shape[1]:
                x = x.mT
            x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
            for _ in range(5):
                a = x @ x.mT
                x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
            x = x.mT if shape[0] > shape[1] else x
            for p, update in zip(group, x):
                p.mul_(1 - rate * 0.01).add_(update, alpha=-rate * max(1, shape[0] / shape[1]) ** 0.5)
                p.grad = None


def arguments():
    parser = argparse.ArgumentParser()
    for name in ("rows", "out"):
        parser.add_argument(name)
    for name, default in [("matrix-lr", 0.002), ("other-lr", 4e-4), ("cool-minutes", 48.0), ("average", 0.98), ("trunk-weight", 1.5)]:
        parser.add_argument(f"--{name}", type=float, default=default)
    for name, default in [("steps", 1700), ("cool-steps", 600), ("batch", 4), ("seed", 0), ("threads", 2), ("first", 0)]:
        parser.add_argument(f"--{name}", type=int, default=default)
    for name in ("from", "validation", "end"):
        parser.add_argument(f"--{name}", dest="start" if name == "from" else name)
    return parser.parse_args()


def load_rows(path):
    file = np.load(path)
    names = ("ids", "position", "branch", "visible", "weight")
    return [torch.from_numpy(file[n].astype(np.int16)) for n in names], int(file["trunk"])


def pick(arrays, rows):
    return [a[rows].long() for a in arrays]


def save(weights, path):
    save_file({k: v.detach().to(torch.bfloat16).contiguous() for k, v in weights.items()}, path, metadata={"format": "pt"})


class Schedule:
    """The factor of the learning rates: warm-up, constant, linear decay to nothing."""

    def __init__(self, o):
        self.o, self.cooling, self.asked = o, None, False
        now = datetime.datetime.now(datetime.timezone.utc)
        self.end = float("inf")
        if o.end:
            hour, minute = map(int, o.end.split(":"))
            self.end = now.replace(hour=hour, minute=minute, second=0).timestamp()
        signal.signal(signal.SIGUSR1, lambda *_: setattr(self, "asked", True))

    def factor(self, step):
        now = time.time()
        if self.cooling is None and (self.asked or step >= self.o.steps - self.o.cool_steps or now > self.end - self.o.cool_minutes * 60):
            self.cooling = (step, now)
            print(f"cooling from step {step}", flush=True)
        if self.cooling is None:
            return min(1.0, (step + 1) / 20)
        by_steps = (step - self.cooling[0]) / self.o.cool_steps
        by_time = (now - self.cooling[1]) / max(self.end - self.cooling[1], 1.0)
        return max(0.0, 1 - max(by_steps, by_time))


@torch.no_grad()
def validate(weights, arrays, trunk, batch):
    """Mean loss of the trunk and of the branches."""
    sums = {"trunk": [0.0, 0], "lines": [0.0, 0]}
    for at in range(0, len(arrays[0]) - batch + 1, batch):
        hidden, targets, weight = forward(weights, pick(arrays, slice(at, at + batch)), trunk)
        loss = F.cross_entropy(hidden @ weights["model.embed_tokens.weight"].T, targets, reduction="none")
        for name, chosen in (("trunk", weight <= TRUNK_WEIGHT), ("lines", weight == 100)):
            sums[name][0] += loss[chosen].sum().item()
            sums[name][1] += int(chosen.sum())
    return {name: round(total / max(count, 1), 4) for name, (total, count) in sums.items()}


def main():
    o = arguments()
    torch.set_num_threads(o.threads)
    torch.manual_seed(o.seed)
    os.makedirs(o.out, exist_ok=True)
    with open(f"{o.out}/train.pid", "w") as file:
        file.write(str(os.getpid()))
    weights = {k: v.float().requires_grad_() for k, v in load_file(o.start).items() if k != "lm_head.weight"}
    average = {k: v.detach().clone() for k, v in weights.items()}
    matrices = [v for k, v in weights.items() if v.ndim == 2 and "embed" not in k]
    others = [v for k, v in weights.items() if v.ndim != 2 or "embed" in k]
    muon, adam = Muon(matrices), torch.optim.AdamW(others, lr=o.other_lr, betas=(0.9, 0.95), weight_decay=0.0)
    arrays, trunk = load_rows(o.rows)
    arrays[4][arrays[4] == TRUNK_WEIGHT] = round(TRUNK_WEIGHT * o.trunk_weight)
    validation = load_rows(o.validation) if o.validation else None
    order = torch.from_numpy(np.random.RandomState(o.seed).permutation(len(arrays[0])))
    schedule, step, seen, spent, saved = Schedule(o), 0, 0, 0.0, time.time()
    smooth = None
    if validation:
        print("before", validate(weights, *validation, o.batch), flush=True)
    while (factor := schedule.factor(step)) > 0:
        began = time.time()
        at = (o.first + step) * o.batch % (len(order) - o.batch)
        batch = pick(arrays, order[at:at + o.batch])
        loss = HeadLoss.apply(*(lambda h, t, w: (h, weights["model.embed_tokens.weight"], t, w))(*forward(weights, batch, trunk)))
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(others, 1.0)
        muon.step(o.matrix_lr * factor)
        adam.param_groups[0]["lr"] = o.other_lr * factor
        adam.step()
        adam.zero_grad(set_to_none=True)
        with torch.no_grad():
            for k, v in weights.items():
                average[k].lerp_(v, 1 - min(o.average, (step + 1) / (step + 10)))
        step, seen, spent = step + 1, seen + int((batch[2] != 255).sum()), spent + time.time() - began
        smooth = loss.item() if smooth is None else 0.95 * smooth + 0.05 * loss.item()
        if step % 10 == 0:
            print(f"step {step} tokens {seen / 1e6:.2f}M loss {smooth:.3f} norm {norm:.2f} rate {factor:.2f} {spent / step:.2f} s a step", flush=True)
        if time.time() - saved > 600:
            save(average, f"{o.out}/checkpoint.safetensors")
            if validation:
                print("validation of the average", validate(average, *validation, o.batch), flush=True)
            saved = time.time()
    save(weights, f"{o.out}/model.safetensors")
    result = validate(weights, *validation, o.batch) if validation else {}
    print(f"steps {step}, tokens {seen / 1e6:.2f}M, validation {result}", flush=True)
    with open(f"{o.out}/train.json", "w") as file:
        json.dump({"steps": step, "tokens": seen, "seconds": round(spent), "validation": result, "matrix_lr": o.matrix_lr, "other_lr": o.other_lr,
                   "batch": o.batch, "trunk": trunk}, file, indent=1)


main()
