"""`python -m sqlsched` is the same program as `sqlsched`."""

from sqlsched.cli import main

if __name__ == "__main__":
    main()
