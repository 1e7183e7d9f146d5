"""`python -m quantcore`: the command line."""

import sys

from quantcore.cli import main

if __name__ == "__main__":
    sys.exit(main())
