"""`geoembed compare`. Heavy imports wait until it runs."""

import argparse
import sys

from geoembed.compare.settings import CompareConfig
from geoembed.errors import DomainError
from geoembed.settings import read_toml

__all__ = ["compare"]


def compare(args: argparse.Namespace) -> None:
    if args.workers < 0:
        args.parser.error(f"--workers must be at least 0, got {args.workers}")
    if args.resume is not None and (args.output is not None or args.config is not None):
        raise DomainError("--resume names the folder and its settings; leave out -o and --config")
    file = args.resume / "config.toml" if args.resume is not None else args.config
    values = {} if file is None else read_toml(file)
    given = {name: getattr(args, name) for name in CompareConfig.fields() if getattr(args, name, None) is not None}
    config = CompareConfig.from_mapping(values | given)

    from geoembed.compare.experiment import compare, untrained
    from geoembed.compare.table import Table, write
    from geoembed.data.labelled import load_labelled
    from geoembed.run_folder import next_folder

    data = load_labelled(config.data)
    folder = args.resume or args.output or next_folder("compare")
    print(f"{data!r}\n{len(config.loss_names)} losses x {len(config.distance_names)} distances -> {folder}", flush=True)
    try:
        runs = compare(config, folder, workers=args.workers)
    except KeyboardInterrupt:
        print(f"\nstopped and saved. Go on with: geoembed compare --resume {folder}", file=sys.stderr)
        raise
    table = Table(runs, args.metric, untrained(data, config) if args.metric == "map@r" else None)
    write(table, folder)
    print(f"\n{table.markdown()}\nin {folder}: table.md, table.tsv, table.png, results.jsonl")
