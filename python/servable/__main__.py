"""`python -m servable`."""

from servable.cli import main

if __name__ == "__main__":
    main()
