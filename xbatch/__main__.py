"""`python -m xbatch`."""

from xbatch.cli import main

if __name__ == "__main__":
    main()
