"""`python -m linnaeus`, the same as `linnaeus`."""

from linnaeus.cli import main

if __name__ == "__main__":
    main()
