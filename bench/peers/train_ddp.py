"""GPT under torchrun with DistributedDataParallel over Gloo, or alone where the world is one process.

Logs each stage and each optimizer step. With --checkpoint-every it saves like a careful user: fsync, then rename; and
goes on from what it finds there.
"""

import time

STARTED = time.time()
import os

import torch
import torch.distributed as dist

IMPORTED = time.time()
from common import GPT, SIZES, Log, Tokens, arguments, make_optim


def main():
    parser = arguments()
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--checkpoint", help="file to save to and to go on from")
    parser.add_argument("--checkpoint-every", type=int, default=0, help="steps; 0: never")
    options = parser.parse_args()
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    log = Log(options.out, rank)
    restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
    log.say("started", STARTED, restarts=restarts)
    log.say("imported", IMPORTED)
    torch.set_num_threads(options.threads)
    if world > 1:
        dist.init_process_group("gloo")
    log.say("grouped")
    torch.manual_seed(1)
    model = net = GPT(SIZES[options.size])
    optimizer = make_optim(model)
    first = 0
    if options.checkpoint and os.path.exists(options.checkpoint):
        saved = torch.load(options.checkpoint, mmap=True, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        first = saved["step"]
    if world > 1:
        net = torch.nn.parallel.DistributedDataParallel(model)
    data = Tokens(options.tokens, SIZES[options.size]["ctx"])
    log.say("built", parameters=sum(p.numel() for p in model.parameters()))
    for step in range(first, options.steps):
        x, y = data.batch(step, options.batch * world, rank, options.batch)
        with torch.autocast("cpu", torch.bfloat16, enabled=options.dtype == "bf16"):
            loss = net(x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        # Muster reports the loss of every step, too.
        log.say("step", step=step + 1, loss=loss.item(), restarts=restarts)
        if rank == 0 and options.checkpoint_every and (step + 1) % options.checkpoint_every == 0:
            save(options.checkpoint, dict(model=model.state_dict(), optimizer=optimizer.state_dict(), step=step + 1))
    if world > 1:
        dist.destroy_process_group()


def save(path, state):
    with open(path + ".new", "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(path + ".new", path)


if __name__ == "__main__":
    main()
