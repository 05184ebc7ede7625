"""``python -m seamline`` is the command ``seamline``."""

from seamline.flows.cli.main import main

if __name__ == "__main__":
    main()
