"""Start the suite: python -m tests.benchmarks."""

import sys

from tests.benchmarks.suite import main

sys.exit(main())
