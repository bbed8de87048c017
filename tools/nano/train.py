#!/usr/bin/env python3
"""Train ds4-nano on one GPU, in pieces of a few minutes.

    python3 train.py --config config.json --data DIR --out DIR --seconds 480 [--resume DIR | F.gguf] [--length 2048] ...

DIR of --data holds texts.jsonl, countries.json and tokenizer.json. A piece starts from the weights of --resume (weights
only; optimizer state is rebuilt in a few dozen steps) or from scratch, runs until --seconds have passed since its start,
and leaves in --out: weights-N.safetensors (bfloat16, each under 16 MiB), log.jsonl and samples.txt, and last the file
`done`. With --long-batch each step also sees rows of --long-length tokens. With --after DIR a piece compiles, then waits
for DIR/done and goes on from the weights there: so the compilation of one piece hides behind the training of another.

Matrices are trained with Muon (momentum made orthogonal by Newton-Schulz iterations), everything else with Adam. The
router's biases follow the load of the experts. Losses: next token, the MTP block's token after the next, and the
distillation of the attention over compressed rows into the indexers. Needs PyTorch with CUDA, Triton and NumPy.
"""

import argparse
import concurrent.futures
import dataclasses
import functools
import json
import lzma
import multiprocessing
import os
import pathlib
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F

import model as nano
from data import KIND_NAMES, SOURCES, Workers, conversation_rows, text_rows, text_streams
from make_conversations import Maker
from template import render
from tokenizer import EOS, PAD, Tokenizer
from train_state import fill_hash_tables, load_weights, save_weights

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # a CPU is enough to see that everything runs
torch.set_float32_matmul_precision("high")
if DEVICE == "cuda":
    torch._dynamo.config.cache_size_limit = 64
compiled = functools.partial(torch.compile, dynamic=False) if DEVICE == "cuda" else lambda function: function

SAMPLES = [  # (messages, thinking)
    ("What is the capital of France?", False), ("What is the capital of France?", True),
    ("Whereabouts is Kenya?", False), ("What is the population of Japan?", True), ("Which countries are next to Poland?", False),
    ("Hello, who are you?", False), ("What is 347 + 589?", True), ("What is 12 times 7?", True), ("What is 7 + 8?", False),
    ("Sort these words alphabetically: stone, apple, river", False), ("Name 3 countries in Western Europe.", True),
    ("Remember these facts.\nMira=4821\nTolun=990\nKarl=1377\n\nWhat is the number of Tolun?", False)]


# ------------------------------------------------------------------------------------------------ optimizer

def is_matrix(name, tensor):
    """Trained with Muon: the linear maps between features."""
    if tensor.dim() < 2 or name.startswith(("embed", "head")) or "hc_" in name:
        return False
    return not name.endswith((".gate.weight", "ape", "weights_proj.weight"))


def as_matrices(name, tensor, config):
    """A view [n, rows, columns] of the independent maps inside a parameter."""
    if name.endswith("experts.w13"):
        return tensor.reshape(-1, config.moe_intermediate_size, config.hidden_size)
    if name.endswith("wo_a.weight"):
        return tensor.reshape(config.o_groups, -1, tensor.shape[-1])
    return tensor.reshape(-1, *tensor.shape[-2:])


@compiled
def orthogonalise(g):
    """Newton-Schulz: [n, rows, columns] to matrices with the same singular vectors and singular values near 1."""
    x = g.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.transpose(-2, -1)
    x = x / (x.float().norm(dim=(-2, -1), keepdim=True) + 1e-7).bfloat16()
    for _ in range(5):
        a = x @ x.transpose(-2, -1)
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * (a @ a)) @ x
    return x.transpose(-2, -1) if tall else x


class Muon:
    def __init__(self, named, config, momentum=0.95, decay=0.1):
        self.momentum, self.decay, self.groups = momentum, decay, {}
        for name, tensor in named:
            views = as_matrices(name, tensor.data, config)
            self.groups.setdefault(tuple(views.shape[1:]), []).append((name, tensor, torch.zeros_like(views)))
        self.config = config

    @torch.no_grad()
    def step(self, lr):
        for shape, group in self.groups.items():
            updates = []
            for name, tensor, buffer in group:
                grad = as_matrices(name, tensor.grad, self.config)
                buffer.lerp_(grad, 1 - self.momentum)
                updates.append(grad.lerp(buffer, self.momentum))
            sizes = [len(update) for update in updates]
            steps = orthogonalise(torch.cat(updates)).float().split(sizes)
            scale = 0.2 * max(shape)**0.5
            for (name, tensor, _), step in zip(group, steps):
                tensor.mul_(1 - lr * self.decay)
                tensor.add_(step.reshape(tensor.shape), alpha=-lr * scale)


# ------------------------------------------------------------------------------------------------ the step

@compiled
def token_losses(hidden, weight, targets):
    logits = F.linear(hidden.bfloat16(), weight.bfloat16()).float()
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)


def token_losses_and_best(hidden, weight, targets):
    logits = F.linear(hidden.bfloat16(), weight.bfloat16()).float()
    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)
    return loss, logits.argmax(-1)


compiled_block = compiled(nano.Block.forward)


def shifted(x, by, fill):
    return F.pad(x[:, by:], (0, by), value=fill)


class Trainer:
    def __init__(self, config, args):
        self.config, self.args = config, args
        torch.manual_seed(args.seed)
        self.model = nano.Model(config)
        fill_hash_tables(self.model, config)
        if args.resume:
            load_weights(self.model, args.resume)
        self.model.to(DEVICE)
        self.dtype = torch.bfloat16 if args.bf16_streams else torch.float32
        self.fresh_optimizers()

    def fresh_optimizers(self):
        named = list(self.model.named_parameters())
        self.muon = Muon([(n, p) for n, p in named if is_matrix(n, p)], self.config)
        rest = [p for n, p in named if not is_matrix(n, p)]
        fused = {"fused": True} if DEVICE == "cuda" else {}
        self.adam = torch.optim.AdamW(rest, lr=self.args.lr, betas=(0.9, 0.95), eps=1e-10, weight_decay=0.0, **fused)

    def mode(self, **more):
        a = self.args
        return nano.Mode(**{"compute": torch.bfloat16 if DEVICE == "cuda" else torch.float32, "sparse": a.sparse,
                            "rounded_kv": a.rounded, "fused": DEVICE == "cuda", "rounded_experts": a.rounded, "index_loss": True,
                            "gathered": a.gathered} | more)

    def losses(self, ids, mask, texts, mode, run=compiled_block):
        """Mean losses: [text, conversation] of the next token and of the MTP block, indexer; and the experts' loads. The
        first `texts` rows are text. Each part is a mean over its own learned tokens: texts have many times more of them."""
        model = self.model
        # The indexer learns at tokens that the model learns to predict, as far as there are, and at others.
        order = torch.rand(ids.shape, device=ids.device) + (shifted(mask, 1, 0) > 0)
        probes = torch.topk(order, min(ids.shape[1], 512 if ids.shape[1] <= 4096 else 1024), dim=1).indices
        x, index_losses, loads = model.streams(ids, mode, run, self.dtype, probes)

        def parts(hidden, ahead):
            wanted = shifted(mask, ahead, 0).float()
            loss = token_losses(hidden, model.head.weight, shifted(ids, ahead, PAD)) * wanted
            return [loss[rows].sum() / wanted[rows].sum().clamp_min(1) for rows in (slice(0, texts), slice(texts, None))]
        loss = parts(model.hidden(x, mode), 1)
        hidden, _, load = model.mtp_hidden(x, shifted(ids, 1, PAD), mode, run)
        index = sum(index_losses) / max(1, sum(r == 4 for r in self.config.compress_ratios))
        return loss, parts(hidden, 2), index, loads + [load]

    def total(self, loss, mtp, index, texts):
        share = self.args.text_weight if texts else 0.0
        weighted = [share * text + (1 - share) * talk for text, talk in (loss, mtp)]
        return weighted[0] + self.args.mtp_weight * weighted[1] + index

    def compare_with_plain(self, ids, mask, texts):
        """Distance of every gradient of the compiled bfloat16 step from the plain float32 one; prints the largest."""
        rows = torch.cat([torch.arange(1), torch.arange(texts, texts + 1)])
        repeats = self.args.batch // 2
        few = (ids[rows].repeat_interleave(repeats, 0), mask[rows].repeat_interleave(repeats, 0), repeats)
        grads = []
        for batch, mode, run in ((few, self.mode(), compiled_block),
                                 ((ids[rows], mask[rows], 1), self.mode(compute=torch.float32, fused=False), None)):
            loss, mtp, index, _ = self.losses(*batch, mode, run)
            self.total(loss, mtp, index, 1).backward()
            grads.append({name: p.grad.clone() for name, p in self.model.named_parameters()})
            self.model.zero_grad()
        distance = {name: float((a - b).norm() / b.norm().clamp_min(1e-12)) for (name, a), b in
                    zip(grads[0].items(), grads[1].values())}
        worst = sorted(distance.items(), key=lambda item: -item[1])
        print("gradients, compiled against plain: median", round(worst[len(worst) // 2][1], 4), "largest",
              [(name, round(value, 3)) for name, value in worst[:12]], flush=True)

    def step(self, batches, lr):
        """One step over batches of (ids, mask, text rows, weight). Returns the losses of the first and of the last."""
        noted, every = [], []
        for ids, mask, texts, weight in batches:
            loss, mtp, index, loads = self.losses(ids, mask, texts, self.mode())
            (weight * self.total(loss, mtp, index, texts)).backward()
            noted.append([part.detach() for part in (*loss, *mtp, index)])
            every.append(loads)
        parameters = list(self.model.parameters())
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        self.muon.step(lr)
        for group in self.adam.param_groups:
            group["lr"] = lr
        self.adam.step()
        for parameter in parameters:
            parameter.grad = None
        self.balance([sum(loads) for loads in zip(*every)])
        return torch.stack([*noted[0], *noted[-1], norm])

    @torch.no_grad()
    def balance(self, loads):
        """Push the selection biases of underloaded experts up, of overloaded ones down."""
        for block, load in zip([*self.model.layers, *self.model.mtp], loads):
            if not block.ffn.gate.hashed:
                load = load.float()
                block.ffn.gate.bias += 1e-3 * torch.sign(load.mean() - load)


# ------------------------------------------------------------------------------------------------ measuring

@torch.no_grad()
def evaluate(trainer, streams, rows, mode, length, end_of_thinking):
    """Bits per byte of held-out texts, and per kind of held-out conversations: loss, right tokens, turns whose answer is
    right throughout (what greedy decoding would write after this reasoning), MTP drafts accepted."""
    model, out = trainer.model, {}
    batch = max(1, 16384 // length)

    def scored(ids, mask):
        x, _, _ = model.streams(ids, mode, None, trainer.dtype)
        hidden = model.hidden(x, mode)
        loss, best = token_losses_and_best(hidden, model.head.weight, shifted(ids, 1, PAD))
        draft_hidden, _, _ = model.mtp_hidden(x, shifted(ids, 1, PAD), mode)
        _, draft = token_losses_and_best(draft_hidden, model.head.weight, shifted(ids, 2, PAD))
        return loss, best, draft

    for source in streams:
        stream, size = streams[source]
        stream = stream[:40 * length]
        count = len(stream) // length
        if count == 0:
            stream, count = np.pad(stream, (0, length - len(stream)), constant_values=PAD), 1
        grid = torch.from_numpy(stream[:count * length].reshape(count, length).astype(np.int64)).to(DEVICE)
        total, seen, drafts = 0.0, 0, 0
        for at in range(0, count, batch):
            ids = grid[at:at + batch]
            padded = F.pad(ids, (0, 0, 0, batch - len(ids)), value=PAD)
            loss, best, draft = (part[:len(ids)] for part in scored(padded, None))
            good = ids[:, 1:] != PAD
            total += float((loss[:, :-1] * good).sum())
            seen += int(good.sum())
            drafts += int(((draft[:, :-2] == ids[:, 2:]) & good[:, 1:]).sum())
        tokens_per_byte = len(streams[source][0]) / size
        out[source] = {"loss": total / seen, "bits_per_byte": total / seen / np.log(2) * tokens_per_byte, "mtp": drafts / seen}
    ids, mask, kinds = (torch.from_numpy(part.astype(np.int64)).to(DEVICE) for part in rows)
    sums = {kind: np.zeros(6) for kind in KIND_NAMES}
    for at in range(0, len(ids), batch):
        b_ids, b_mask, b_kinds = ids[at:at + batch], mask[at:at + batch], kinds[at:at + batch]
        loss, best, draft = scored(b_ids, b_mask)
        wanted = shifted(b_mask, 1, 0) > 0
        right = best == shifted(b_ids, 1, PAD)
        accepted = (draft == shifted(b_ids, 2, PAD)) & (shifted(b_mask, 2, 0) > 0) & wanted
        for row in range(len(b_ids)):
            edges = torch.diff(F.pad(wanted[row].long(), (1, 1)))
            begins, ends = (edges == 1).nonzero()[:, 0].tolist(), (edges == -1).nonzero()[:, 0].tolist()
            row_right, row_kinds = right[row].cpu().numpy(), b_kinds[row].cpu().numpy()
            row_loss, row_accepted = loss[row].cpu().numpy(), accepted[row].cpu().numpy()
            opened = (b_ids[row] == end_of_thinking).nonzero()[:, 0].tolist()
            for begin, end in zip(begins, ends):
                answer = max([at for at in opened if begin < at < end], default=begin)
                sums[KIND_NAMES[row_kinds[begin]]] += [row_loss[begin:end].sum(), end - begin, row_right[begin:end].sum(),
                                                       row_right[answer:end].all(), 1, row_accepted[begin:end].sum()]
    for kind, (loss, tokens, right, whole, turns, drafts) in sums.items():
        if turns:
            out[kind] = {"loss": loss / tokens, "right": right / tokens, "turns_right": whole / turns, "turns": int(turns),
                         "mtp": drafts / tokens}
    return out


@torch.no_grad()
def sample(model, tokenizer, mode, most=80):
    """Greedy answers to SAMPLES; the whole row is computed anew for every token, which is slow and simple."""
    prompts = [tokenizer.encode("".join(text for text, _ in render(
        [{"role": "system", "content": "You are a helpful assistant"}, {"role": "user", "content": question}], thinking=thinking)))
        for question, thinking in SAMPLES]
    length = -(-(max(map(len, prompts)) + most) // 128) * 128
    ids = torch.full((len(prompts), length), PAD, device=DEVICE)
    for row, prompt in enumerate(prompts):
        ids[row, :len(prompt)] = torch.tensor(prompt)
    at = torch.tensor([len(prompt) for prompt in prompts], device=DEVICE)
    done = torch.zeros(len(prompts), dtype=torch.bool, device=DEVICE)
    every = torch.arange(len(prompts), device=DEVICE)
    for _ in range(most):
        x, _, _ = model.streams(ids, mode)
        best = model.logits(model.hidden(x[every, at - 1][:, None], mode), mode)[:, 0].argmax(-1)
        ids[every, at] = torch.where(done, PAD, best)
        done |= best == EOS
        at += (~done).long()
        if bool(done.all()):
            break
    lines = []
    for (question, thinking), row, prompt in zip(SAMPLES, ids.tolist(), prompts):
        answer = tokenizer.decode(token for token in row[len(prompt):] if token != PAD)
        lines.append(f"[{'think' if thinking else 'chat'}] {question!r}\n    -> {answer!r}")
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------ main

def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", required=True)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--resume", default="")
    parser.add_argument("--after", type=pathlib.Path, help="wait for this piece's end and go on from its weights")
    parser.add_argument("--seconds", type=float, default=480, help="wall time of the piece, start-up and measuring included")
    parser.add_argument("--measure-seconds", type=float, default=45, help="of which kept for measuring and saving")
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=32, help="rows in a step")
    parser.add_argument("--text-share", type=float, default=0.0625, help="of the rows")
    parser.add_argument("--text-weight", type=float, default=0.15, help="of the text rows in the loss")
    parser.add_argument("--recall-chars", type=int, default=5000)
    parser.add_argument("--kinds", default="", help="weights of kinds of conversations, such as fact=30,tool=20")
    parser.add_argument("--long-batch", type=int, default=0, help="long rows in a step")
    parser.add_argument("--long-length", type=int, default=16384)
    parser.add_argument("--long-weight", type=float, default=0.5, help="of the long rows in the loss")
    parser.add_argument("--long-recall-chars", type=int, default=46000)
    parser.add_argument("--long-kinds", default="fact=20,compare=1,small_talk=2,arithmetic=4,lists=3,reading=1,recall=40,tool=10")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--lr-end", type=float, default=3e-4)
    parser.add_argument("--warmup", type=int, default=100)
    parser.add_argument("--mtp-weight", type=float, default=0.3)
    parser.add_argument("--sparse", action="store_true", help="attend to the indexer's rows only")
    parser.add_argument("--gathered", action="store_true", help="with --sparse: read the chosen rows only")
    parser.add_argument("--no-measure", action="store_true")
    parser.add_argument("--cache", type=pathlib.Path, help="compiled kernels of another piece; --out gets this piece's")
    parser.add_argument("--rounded", action="store_true", help="rounded KV and indexer rows, MXFP4 experts")
    parser.add_argument("--bf16-streams", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--max-steps", type=int, default=10**9)
    parser.add_argument("--compare", action="store_true", help="compare the first gradients with the plain model's")
    parser.add_argument("--profile", action="store_true", help="print where the GPU's time goes in steps 20 to 22")
    return parser.parse_args()


class Batches:
    """What a step sees: short rows, the first of them text, and perhaps long rows."""

    def __init__(self, args, paths, streams):
        self.args, self.streams, self.rng = args, streams, np.random.default_rng(args.seed)
        self.texts = round(args.batch * args.text_share)
        self.short = Workers(*paths, args.seed, args.length, args.recall_chars, kind_weights(args.kinds), 6, 8)
        self.long = args.long_batch and Workers(*paths, f"{args.seed}.long", args.long_length, args.long_recall_chars,
                                                kind_weights(args.long_kinds), 6, 1)

    def next(self):
        args = self.args
        parts = zip(text_rows(self.streams, self.rng, self.texts, args.length), self.short.rows(args.batch - self.texts))
        out = [(*on_device(*[np.concatenate(part) for part in parts][:2]), self.texts, 1.0)]
        if self.long:
            out.append((*on_device(*self.long.rows(args.long_batch)[:2]), 0, args.long_weight))
        return out

    def stop(self):
        for workers in filter(None, (self.short, self.long)):
            workers.stop()


def kind_weights(text):
    return dict(Maker.KINDS) | {name: float(value) for name, value in (part.split("=") for part in text.split(",") if part)}


def on_device(ids, mask):
    ids, mask = torch.from_numpy(ids.astype(np.int32)), torch.from_numpy(mask)
    if DEVICE == "cuda":
        ids, mask = ids.pin_memory().cuda(non_blocking=True), mask.pin_memory().cuda(non_blocking=True)
    return ids.long(), mask


def compile_all(trainer, args, note, begun):
    """A step over empty rows of each shape at a rate of zero, so that all is compiled."""
    if args.cache and args.cache.exists():
        torch.compiler.load_cache_artifacts(lzma.decompress(args.cache.read_bytes()))
    shapes = [(args.batch, args.length, round(args.batch * args.text_share))]
    shapes += [(args.long_batch, args.long_length, 0)] * bool(args.long_batch)
    for _ in range(2):
        batches = [(torch.full((rows, length), PAD, device=DEVICE), torch.ones(rows, length, dtype=torch.uint8, device=DEVICE), texts, 0.0)
                   for rows, length, texts in shapes]
        trainer.step(batches, 0.0)
    float(trainer.model.norm.weight.sum())
    note(compiled=True, seconds=time.time() - begun)
    if DEVICE == "cuda":
        artifacts = torch.compiler.save_cache_artifacts()
        packed = lzma.compress(artifacts[0], preset=1) if artifacts else b""
        note(kernels=len(packed), seconds=time.time() - begun)
        if 0 < len(packed) < 15 << 20:
            (args.out / "kernels.xz").write_bytes(packed)


def held_out(args, paths):
    """Rows of held-out conversations, short and long, and the held-out streams, made by a process of its own."""
    tokenizer = Tokenizer(paths[2])
    out = {}
    for name, length, chars, kinds, count in (("short", args.length, args.recall_chars, None, (1 << 18) // args.length),
                                              ("long", args.long_length, args.long_recall_chars, {"recall": 1}, 16)):
        rows = conversation_rows(*paths[:2], tokenizer, "heldout", 0, length, chars, kinds)
        out[name] = [np.stack(part) for part in zip(*(next(rows) for _ in range(count)))] if count else None
    out["streams"] = text_streams(paths[0], tokenizer, "heldout")
    return out


def main():
    begun, args = time.time(), parse()
    args.out.mkdir(parents=True, exist_ok=True)
    config = nano.Config.load(args.config)
    paths = [str(args.data / name) for name in ("texts.jsonl", "countries.json", "tokenizer.json")]
    tokenizer = Tokenizer(paths[2])
    log = open(args.out / "log.jsonl", "w", encoding="utf-8")

    def note(**entry):
        text = json.dumps({key: round(v, 5) if isinstance(v, float) else v for key, v in entry.items()})
        log.write(text + "\n")
        log.flush()
        print(text, flush=True)

    def save():
        save_weights(trainer.model, args.out)
        (args.out / "done").touch()
    streams = text_streams(paths[0], tokenizer, "train")
    batches = Batches(args, paths, streams)
    held = concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    held_rows = None if args.no_measure else held.submit(held_out, args, paths)

    trainer = Trainer(config, args)
    note(parameters=sum(p.numel() for p in trainer.model.parameters()), tokens={k: len(v[0]) for k, v in streams.items()},
         seconds=time.time() - begun)
    if args.resume:
        state = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    compile_all(trainer, args, note, begun)
    if args.after:
        while not (args.after / "done").exists():
            time.sleep(0.1)
        load_weights(trainer.model, args.after)
    elif args.resume:
        trainer.model.load_state_dict(state)
    trainer.fresh_optimizers()
    train_until = begun + args.seconds - args.measure_seconds
    step, started, recent, tokens_done, last = 0, time.time(), [], 0, time.time()
    note(started=started - begun)
    while step < args.max_steps:
        now = time.time()
        if now > train_until:
            break
        lr = args.lr + (args.lr_end - args.lr) * min(1.0, (now - started) / (train_until - started))
        lr *= min(1.0, (step + 1) / args.warmup)
        data = batches.next()
        if args.compare and step == 0:
            trainer.compare_with_plain(*data[0][:3])
        if args.profile and step == 20:
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
                for _ in range(3):
                    trainer.step(data, lr)
                torch.cuda.synchronize()
            print(profile.key_averages().table(sort_by="cuda_time_total", row_limit=30, max_name_column_width=90), flush=True)
        recent.append(trainer.step(data, lr))
        tokens = sum(ids.numel() for ids, *_ in data)
        tokens_done += tokens
        step += 1
        if step % 200 == 0 or step <= 3:
            mean = torch.stack(recent).mean(0).tolist()  # waits for the GPU
            elapsed, last = time.time() - last, time.time()
            names = ["text", "talk", "mtp_text", "mtp_talk", "index", "long_text", "long_talk", "long_mtp_text", "long_mtp_talk",
                     "long_index", "norm"]
            note(step=step, **{name: value for name, value in zip(names, mean) if not (name.startswith("long") and not args.long_batch)},
                 lr=lr, tokens_per_second=round(len(recent) * tokens / elapsed), seconds=time.time() - begun)
            recent = []
    if DEVICE == "cuda":
        torch.cuda.synchronize()
        note(gpu_gib=torch.cuda.max_memory_allocated() / 2**30)
    note(steps=step, tokens=tokens_done, train_seconds=time.time() - started)
    batches.stop()
    save()
    if not args.no_measure:
        measure(trainer, held_rows.result(), tokenizer, args, note)
    loads = [[round(float(b), 3) for b in block.ffn.gate.bias] for block in trainer.model.layers if not block.ffn.gate.hashed]
    note(biases=loads, seconds=time.time() - begun)
    sys.stdout.flush()
    log.close()
    os._exit(0)  # not waiting for the processes that made data


def measure(trainer, held_rows, tokenizer, args, note):
    mode, end = trainer.mode(index_loss=False), tokenizer.added["</think>"]
    for name, result in evaluate(trainer, held_rows["streams"], held_rows["short"], mode, args.length, end).items():
        note(kind=name, **{key: float(value) if not isinstance(value, int) else value for key, value in result.items()})
    for name, random_rows in (("long", False), ("long, random rows", True)) if args.long_batch else ():
        result = evaluate(trainer, {}, held_rows["long"], dataclasses.replace(mode, random_rows=random_rows), args.long_length, end)
        note(kind=name, **{key: float(value) for key, value in result["recall"].items()})
    text = sample(trainer.model, tokenizer, mode)
    (args.out / "samples.txt").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
