"""`python -m gmsearch` is the same as `gmsearch`."""

import sys

from gmsearch.cli import main

if __name__ == "__main__":
    sys.exit(main())
