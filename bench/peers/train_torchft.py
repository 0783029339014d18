"""GPT under torchft: one process is one replica group. The lighthouse's address comes by TORCHFT_LIGHTHOUSE.

Logs each stage, and each try of a step with the number of groups that took part and whether it was committed.
"""

import time

STARTED = time.time()
from datetime import timedelta

import torch
import torch.distributed as dist
from torchft import DistributedDataParallel, Manager, Optimizer, ProcessGroupGloo

IMPORTED = time.time()
from common import GPT, SIZES, Log, Tokens, arguments, make_optim


def main():
    parser = arguments()
    parser.add_argument("--group", type=int, required=True, help="this replica group's number")
    parser.add_argument("--groups", type=int, default=2)
    parser.add_argument("--group-timeout", type=int, required=True, help="seconds that a collective may take")
    options = parser.parse_args()
    log = Log(options.out, options.group)
    log.say("started", STARTED)
    log.say("imported", IMPORTED)
    torch.set_num_threads(options.threads)
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    torch.manual_seed(1)
    model = GPT(SIZES[options.size])
    inner = make_optim(model)

    def load(state):
        model.load_state_dict(state["model"])
        inner.load_state_dict(state["optimizer"])

    manager = Manager(
        pg=ProcessGroupGloo(timeout=timedelta(seconds=options.group_timeout)),
        min_replica_size=1,
        load_state_dict=load,
        state_dict=lambda: dict(model=model.state_dict(), optimizer=inner.state_dict()),
        replica_id=f"group_{options.group}",
        rank=0,
        world_size=1,
        store_addr="127.0.0.1",
        store_port=store.port,
        hostname="127.0.0.1",
        timeout=timedelta(seconds=30),
        init_sync=False,
    )
    net = DistributedDataParallel(manager, model)
    optimizer = Optimizer(manager, inner)
    data = Tokens(options.tokens, SIZES[options.size]["ctx"])
    log.say("built", parameters=sum(p.numel() for p in model.parameters()))
    while manager.current_step() < options.steps:
        before = manager.current_step()
        x, y = data.batch(before, options.batch * options.groups, options.group, options.batch)
        optimizer.zero_grad()  # starts the quorum
        loss = net(x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        now = manager.current_step()
        log.say("step", step=now, before=before, committed=now > before, world=manager.num_participants(), loss=loss.item())
    manager.shutdown(wait=False)


if __name__ == "__main__":
    main()
