"""Ours against its peers, interleaved in one run; prints Markdown tables with ratios.

Rounds alternate between the systems, and medians are compared. Whole models: llama.cpp and the original
recipe, ik_llama.cpp, OpenVINO. Single INT4 products: OpenVINO. A peer whose interpreter is not named is left out.

    python -m benchmarks.side_by_side.run --family chatglm3-6b --threads 2 --rounds 3 \
        --llama-cpp ENV/bin/python --gguf FILE --openvino ENV/bin/python [--original ENV/bin/python --folder DIR]
"""

from __future__ import annotations

import argparse
import sys

from benchmarks.side_by_side.tables import model_table, product_table
from benchmarks.side_by_side.worker import HERE, Worker

OURS = (sys.executable, "-m", "benchmarks.side_by_side.ours")


def numbers(text: str) -> list[int]:
    """``"32,128"`` -> [32, 128]; nothing is nothing."""
    return [int(part) for part in text.split(",") if part]


def parse(argv: list[str] | None) -> argparse.Namespace:
    """What to compare, and where the peers are."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--family", default="chatglm3-6b")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--prompt-tokens", type=numbers, default=[32, 128, 512], help="of whole models; '' compares products only"
    )
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--kernel", default="auto")
    parser.add_argument("--product-rows", type=numbers, default=[1, 4, 32, 128, 512], help="'': none")
    parser.add_argument("--llama-cpp", help="interpreter of the llama.cpp environment")
    parser.add_argument("--gguf", help="file written by random_gguf.py")
    parser.add_argument("--llama-bench", help="llama-bench of ik_llama.cpp; runs the file of --gguf too")
    parser.add_argument("--openvino", help="interpreter of the OpenVINO environment")
    parser.add_argument("--openvino-model", help="folder written by openvino_model.py")
    parser.add_argument("--layers", type=int, default=0, help="of ours, where the peers' files have fewer (0: all)")
    parser.add_argument("--original", help="interpreter of the original recipe's environment")
    parser.add_argument("--folder", help="full-size fp16 folder with THUDM's modelling code")
    return parser.parse_args(argv)


def model_workers(args: argparse.Namespace) -> list[Worker]:
    """Start ours and the peers that run whole models."""
    threads = str(args.threads)
    workers = [Worker("ours", [*OURS, threads, args.kernel, args.family, str(args.layers)])]
    if args.llama_cpp:
        workers.append(Worker("llama.cpp", [args.llama_cpp, str(HERE / "llama_cpp_worker.py"), args.gguf, threads]))
    if args.llama_bench:
        command = [sys.executable, str(HERE / "llama_bench.py"), args.llama_bench, args.gguf, threads]
        workers.append(Worker("ik_llama.cpp", command))
    if args.openvino and args.openvino_model:
        command = [args.openvino, str(HERE / "openvino_model.py"), args.openvino_model, threads]
        workers.append(Worker("OpenVINO", command))
    if args.original:
        script = str(HERE / "original_recipe_worker.py")
        workers.append(Worker("original recipe", [args.original, script, args.folder or "", threads]))
    return workers


def product_workers(args: argparse.Namespace, out: int, in_: int) -> list[Worker]:
    """Start ours and OpenVINO with matrices of one shape."""
    threads, shape = str(args.threads), [str(out), str(in_)]
    return [
        Worker("ours", [*OURS, threads, args.kernel, *shape]),
        Worker("OpenVINO", [args.openvino, str(HERE / "openvino_product.py"), threads, *shape]),
    ]


def ready(workers: list[Worker]) -> list[Worker]:
    """Say which systems are left out, and why."""
    for worker in workers:
        if not worker.ready:
            print(f"{worker.name}: not run ({worker.reason})\n")
    return [worker for worker in workers if worker.ready]


def main(argv: list[str] | None = None) -> None:
    """Compare the systems that are at hand."""
    args = parse(argv)
    if args.prompt_tokens:
        workers = model_workers(args)
        for line in model_table(ready(workers), args.prompt_tokens, args.new_tokens, args.rounds):
            print(line, flush=True)
        for worker in workers:
            worker.close()
    if not args.openvino:
        print("\nOpenVINO: not run (name its interpreter with --openvino)")
        return
    for out, in_ in ((16384, 4096), (4096, 16384)) if args.product_rows else ():
        workers = product_workers(args, out, in_)
        print(f"\n{out}×{in_}:\n")
        for line in product_table(ready(workers), args.product_rows, 2 * out * in_, args.rounds):
            print(line, flush=True)
        for worker in workers:
            worker.close()


if __name__ == "__main__":
    main()
