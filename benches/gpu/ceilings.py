#!/usr/bin/env python3
"""What a GPU does at best, by PyTorch: the denominators of a run, which depend on no kernel of ours.

    ceilings.py --output FILE [--device cuda] [--mib 4096] [--side 8192] [--repeat 9]

Reading: the sum of a buffer. Copying: device to device, bytes read and written both counted. Multiplying: a square product of bf16.
All on random data, for zeros are faster than what models hold; the buffers are many times the largest cache. Times are those of CUDA events, in
seconds, of one call each after three that are not counted; a rate is that of the median, and the best one stands beside it.
"""

import argparse
import json
import statistics
import time

from peer_torch import device_name

WARM_UP = 3


def timed(call, device, repeat):
    """Returns the seconds of each of `repeat` calls."""
    import torch

    for _ in range(WARM_UP):
        call()
    times = []
    for _ in range(repeat):
        if device.startswith("cuda"):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            call()
            end.record()
            torch.cuda.synchronize()
            times.append(begin.elapsed_time(end) / 1e3)
        else:
            began = time.perf_counter()
            call()
            times.append(time.perf_counter() - began)
    return times


def memory(num_values, device, repeat):
    """Returns the times of reading so many values of four bytes, and of copying them."""
    import torch

    source = torch.randn(num_values, device=device)
    target = torch.empty_like(source)
    read = timed(lambda: source.sum(), device, repeat)
    copied = timed(lambda: target.copy_(source), device, repeat)
    if not torch.equal(source, target):
        raise SystemExit("the copy is not what was copied")
    return read, copied


def rate(amount, times):
    return {"per_second": amount / statistics.median(times), "best_per_second": amount / min(times), "samples": times}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True)
    parser.add_argument("--device", type=device_name, default="cuda")
    parser.add_argument("--mib", type=int, default=4096, help="size of a buffer")
    parser.add_argument("--side", type=int, default=8192, help="rows and columns of the factors")
    parser.add_argument("--repeat", type=int, default=9)
    arguments = parser.parse_args()

    import torch

    device, repeat, side = arguments.device, arguments.repeat, arguments.side
    torch.manual_seed(1)
    num_values = (arguments.mib << 20) // 4
    read, copied = memory(num_values, device, repeat)
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    product = torch.empty_like(left)
    multiplied = timed(lambda: torch.mm(left, right, out=product), device, repeat)
    on_gpu = device.startswith("cuda")
    result = {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if on_gpu else device,
        "l2_bytes": torch.cuda.get_device_properties(0).L2_cache_size if on_gpu else None,
        "buffer_bytes": 4 * num_values,
        "side": side,
        "read_bytes": rate(4 * num_values, read),
        "copy_bytes": rate(8 * num_values, copied),
        "bf16_flops": rate(2 * side**3, multiplied),
    }
    with open(arguments.output, "w", encoding="utf-8") as file:
        json.dump(result, file, indent=2)
        file.write("\n")


if __name__ == "__main__":
    main()
