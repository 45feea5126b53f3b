"""`python -m pipeline` is the command `fledge`, for launchers that start modules."""

from pipeline.cli import main

if __name__ == "__main__":
    main()
