"""``python -m hcefs``: the command line."""

from hcefs.cli.main import main

if __name__ == "__main__":
    main()
