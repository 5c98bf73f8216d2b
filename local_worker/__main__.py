"""`python -m local_worker` is `local-worker`."""

import sys

from local_worker.cli import main

sys.exit(main())
