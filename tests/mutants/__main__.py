"""``python -m mutants`` in the folder of the tests: what ``pefteach mutants`` starts."""

import argparse
import sys

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--of", help="only the wrong versions of this")
    try:
        from mutants.catch import print_mutants
    except ModuleNotFoundError as error:
        sys.exit(f"pefteach: no package {error.name} is installed: run `pip install -e '.[test]'` in the repository")
    sys.exit(print_mutants(**vars(parser.parse_args())))
