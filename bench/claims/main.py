#!/usr/bin/env python3
"""The paper's claims, measured by jobs of the service.

Runs the cells of bench/claims/cells.py that have no result yet, on a service of its own (`sabctl up`) or on one that runs already, and
writes docs/CLAIMS.md from all results. Ctrl-C leaves the jobs where they are: the same command goes on. A cell whose job file was not
changed is not run again; `--only NAME --again` runs it again.
"""

import argparse
import fnmatch
import os
import pathlib
import signal
import sys
import time

import render
from cells import BUDGETS, all_cells
from driver import Driver, is_done, runs_of
from service import Service, ServiceError

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent


def arguments_of(argv):
    parser = argparse.ArgumentParser(prog="./dev bench claims", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--budget", choices=BUDGETS, default="small",
                        help="small: 15 minutes on two cores; medium: some hours; full: nights, or a GPU")
    parser.add_argument("--only", metavar="PATTERN", action="append", help="cells whose name matches, of any budget: 'copy/onehot/T100/*'. May be repeated")
    parser.add_argument("--data", type=pathlib.Path, metavar="DIR", help="raw data (ptb/, mnist/, fsdd/); cells that need it are skipped without")
    parser.add_argument("--seeds", type=int, default=0, metavar="N", help="seeds 1 to N in place of the cell's own")
    parser.add_argument("--again", action="store_true", help="also run what has a result")
    parser.add_argument("--results", type=pathlib.Path, default=HERE / "results", metavar="DIR", help="results, a JSON file a cell")
    parser.add_argument("--work", type=pathlib.Path, metavar="DIR", help="the service's state and derived data (default: claims/ in the build folder)")
    parser.add_argument("--docs", type=pathlib.Path, metavar="DIR", help="where CLAIMS.md is written (default: docs/, or --results if that is given)")
    parser.add_argument("--address", default="", metavar="HOST:PORT", help="use a service that runs already")
    parser.add_argument("--parallel", type=int, default=0, metavar="N", help="jobs at a time (default: one a core)")
    parser.add_argument("--list", action="store_true", help="the chosen cells and their state, and nothing else")
    parser.add_argument("--render", action="store_true", help="write the page from the results, and nothing else")
    arguments = parser.parse_args(argv)
    arguments.work = arguments.work or arguments.build / "claims"
    arguments.docs = arguments.docs or (ROOT / "docs" if arguments.results == HERE / "results" else arguments.results)
    arguments.parallel = arguments.parallel or os.cpu_count()
    return arguments


def chosen(cells, arguments):
    if arguments.only:
        found = [cell for cell in cells if any(fnmatch.fnmatch(cell.name, pattern) for pattern in arguments.only)]
        if not found:
            sys.exit(f"no cell matches {' '.join(arguments.only)}; --budget full --list names them all")
        return found
    return [cell for cell in cells if BUDGETS.index(cell.budget) <= BUDGETS.index(arguments.budget)]


def show(cells, arguments):
    for cell in cells:
        runs = list(runs_of(cell, arguments.seeds))
        done = sum(is_done(arguments.results, run) for run in runs)
        needs = " ".join([*(["--data"] if cell.data else []), *(["GPU"] if cell.gpu else [])])
        print(f"{cell.name:34} {done} of {len(runs)} {cell.job['train']['steps']:>7,} updates  {needs}")


def say(words):
    print(f"{time.strftime('%H:%M:%S')} {words}", file=sys.stderr, flush=True)


def main(argv):
    arguments = arguments_of(argv)
    everything = all_cells()
    cells = chosen(everything, arguments)
    if arguments.list:
        return show(cells, arguments)
    write = lambda: render.write(everything, arguments.results, arguments.docs)
    if arguments.render:
        return write()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    service = Service(arguments.build / "bin" / "sabctl", arguments.work, arguments.parallel, arguments.address, say)
    driver = Driver(service, arguments.results, arguments.work, arguments.data, arguments.parallel, arguments.again, write, say)
    try:
        service.start()
        driver.run(cells, arguments.seeds)
    except KeyboardInterrupt:
        say("stopped; the same command goes on")
        return 130
    except ServiceError as error:
        say(str(error))
        return 1
    finally:
        service.stop()
        write()
    say(f"the page is {arguments.docs / 'CLAIMS.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
