"""`python -m holdfast_jepsen`."""

import sys

from holdfast_jepsen.command import main

if __name__ == "__main__":
    sys.exit(main())
