"""Speed and peak memory of evaluation, against pytorch-metric-learning with faiss, and of `Neighbors` against faiss.

    OMP_NUM_THREADS=1 python tests/benchmarks/quality_speed.py

MAP@R, R-precision and P@1 of 10,000 vectors of R^128 in 100 and in 1000 classes. Contenders take turns in one process;
each memory is the peak above the start of the first call in a process of its own.
"""

import subprocess
import sys
import warnings

import torch
from common import Memory, arguments, interleaved, median, ratio, table

from geoembed.distances import Cosine, Euclidean
from geoembed.distances.snr import SNR
from geoembed.quality import retrieval_metrics
from geoembed.retrieval import Neighbors

ITEMS, FEATURES = 10_000, 128


def contenders(classes):
    """name -> function of no arguments."""
    import faiss
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

    faiss.omp_set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(ITEMS) % classes
    x = 0.7 * torch.randn(classes, FEATURES, generator=generator)[labels]
    x = x + torch.randn(ITEMS, FEATURES, generator=generator)
    calculator = AccuracyCalculator(
        include=("precision_at_1", "r_precision", "mean_average_precision_at_r"),
        k="max_bin_count",
        device=torch.device("cpu"),
    )

    def search():
        index = faiss.IndexFlatL2(FEATURES)
        index.add(x.numpy())
        return index.search(x.numpy(), 11)

    neighbors = Neighbors(Euclidean()).fit(x)
    return {
        "PML + faiss": lambda: calculator.get_accuracy(x, labels),
        "Euclidean": lambda: retrieval_metrics(Euclidean(), x, labels),
        "SNR": lambda: retrieval_metrics(SNR(), x, labels),
        "Cosine": lambda: retrieval_metrics(Cosine(), x, labels),
        "faiss, 10 neighbours": search,
        "Neighbors, 10 neighbours": lambda: neighbors.kneighbors(k=10),
    }


def peak(classes, name):
    """MiB in a fresh process."""
    call = [sys.executable, __file__, "--peak", str(classes), name]
    return float(subprocess.run(call, check=True, capture_output=True, text=True).stdout)


def main():
    parser = arguments(__doc__)
    parser.add_argument("--peak", nargs=2, help="print the peak memory of one contender: classes, name")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    if args.peak:
        run = contenders(int(args.peak[0]))[args.peak[1]]
        with Memory() as memory:
            run()
        print(memory.above / 2**20)
        return
    rows = []
    for classes in (100, 1000):
        runs = contenders(classes)
        if classes == 1000:  # what does not depend on the classes is timed once
            runs = {name: run for name, run in runs.items() if "neighbours" not in name}
        seconds = interleaved(runs, args.rounds)
        for name, times in seconds.items():
            reference = "faiss, 10 neighbours" if "neighbours" in name else "PML + faiss"
            mib, theirs = peak(classes, name), peak(classes, reference)
            relative = ratio(times, seconds[reference])
            rows.append([classes, name, f"{median(times):.2f}", f"{relative:.2f}", f"{mib:.0f}", f"{mib / theirs:.2f}"])
    table(["classes", "", "CPU s", "/ reference", "peak MiB", "/ reference"], rows)


if __name__ == "__main__":
    main()
