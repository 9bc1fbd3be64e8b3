"""`python -m sqlsched` is the same program as `sqlsched`."""

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]  # the current directory: `run --app-dir` says where tasks are
    from sqlsched.cli import main

    main()
